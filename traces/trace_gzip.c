// traces/trace_gzip.c - zlib, behind a packer and behind a FILE.
#include "traces/trace_gzip.h"

#include <errno.h>
#include <stdlib.h>
#include <zlib.h>

#include "engine/status.h"

enum {
    GZIP_WINDOW = 15 + 16,         // the longest window, and gzip's header and trailer
    PACK_LEVEL = Z_BEST_SPEED,     // traces repeat themselves so much that more effort saves 3% only
    PACK_MEMORY = 8,               // zlib's default
    UNPACK_BYTES = 64 << 10,
};

struct trace_packer {
    z_stream stream;
    uint8_t *packed;               // [capacity], owned
    size_t capacity;
};

int trace_packer_open(struct trace_packer **out)
{
    *out = calloc(1, sizeof **out);
    if (!*out ||
        deflateInit2(&(*out)->stream, PACK_LEVEL, Z_DEFLATED, GZIP_WINDOW, PACK_MEMORY, Z_DEFAULT_STRATEGY) != Z_OK) {
        free(*out);
        *out = NULL;
        return status_fail(-ENOMEM, "out of memory for packing");
    }
    return 0;
}

int trace_packer_pack(struct trace_packer *packer, const uint8_t *bytes, size_t n, bool end, const uint8_t **packed,
                      size_t *n_packed)
{
    z_stream *stream = &packer->stream;
    // deflateBound() holds for a stream's end; a flush adds an empty block, a few bytes.
    size_t bound = deflateBound(stream, n) + 64;
    if (bound > packer->capacity) {
        free(packer->packed);
        packer->capacity = 0;
        packer->packed = malloc(bound);
        if (!packer->packed) {
            return status_fail(-ENOMEM, "out of memory for packing");
        }
        packer->capacity = bound;
    }
    stream->next_in = (uint8_t *)(uintptr_t)bytes;
    stream->avail_in = (uInt)n;
    stream->next_out = packer->packed;
    stream->avail_out = (uInt)packer->capacity;
    int got = deflate(stream, end ? Z_FINISH : Z_SYNC_FLUSH);
    *packed = packer->packed;
    *n_packed = packer->capacity - stream->avail_out;
    bool whole = stream->avail_in == 0 && (end ? got == Z_STREAM_END : stream->avail_out > 0);
    return whole ? 0 : status_fail(-EIO, "packing failed");
}

void trace_packer_close(struct trace_packer *packer)
{
    if (packer) {
        deflateEnd(&packer->stream);
        free(packer->packed);
        free(packer);
    }
}

struct unpacker {
    FILE *packed;                  // owned
    z_stream stream;
    bool between;                  // a member has ended; another may follow
    off64_t position;              // of what was handed out
    uint8_t input[UNPACK_BYTES];
};

// More input, if there is any. False: none.
static bool refill(struct unpacker *unpacker)
{
    z_stream *stream = &unpacker->stream;
    if (stream->avail_in == 0) {
        stream->next_in = unpacker->input;
        stream->avail_in = (uInt)fread(unpacker->input, 1, sizeof unpacker->input, unpacker->packed);
    }
    return stream->avail_in > 0;
}

static ssize_t unpack_read(void *user, char *out, size_t n)
{
    struct unpacker *unpacker = user;
    z_stream *stream = &unpacker->stream;
    stream->next_out = (uint8_t *)out;
    stream->avail_out = (uInt)(n < UNPACK_BYTES ? n : UNPACK_BYTES);
    uInt wanted = stream->avail_out;
    while (stream->avail_out == wanted && refill(unpacker)) {
        if (unpacker->between && inflateReset(stream) != Z_OK) {
            errno = EBADMSG;
            return -1;
        }
        int got = inflate(stream, Z_NO_FLUSH);
        unpacker->between = got == Z_STREAM_END;
        if (got != Z_OK && got != Z_STREAM_END && got != Z_BUF_ERROR) {
            errno = EBADMSG;
            return -1;
        }
    }
    ssize_t produced = (ssize_t)(wanted - stream->avail_out);
    unpacker->position += produced;
    return produced;
}

static int unpack_seek(void *user, off64_t *offset, int whence)
{
    struct unpacker *unpacker = user;
    if (whence == SEEK_CUR && *offset == 0) {
        *offset = unpacker->position;
        return 0;
    }
    if (whence != SEEK_SET || *offset != 0 || fseeko(unpacker->packed, 0, SEEK_SET) != 0 ||
        inflateReset(&unpacker->stream) != Z_OK) {
        errno = ESPIPE;
        return -1;
    }
    unpacker->stream.avail_in = 0;
    unpacker->between = false;
    unpacker->position = 0;
    return 0;
}

static int unpack_close(void *user)
{
    struct unpacker *unpacker = user;
    inflateEnd(&unpacker->stream);
    fclose(unpacker->packed);
    free(unpacker);
    return 0;
}

int trace_unpack(FILE **out, FILE *packed)
{
    *out = NULL;
    struct unpacker *unpacker = calloc(1, sizeof *unpacker);
    if (!unpacker || inflateInit2(&unpacker->stream, GZIP_WINDOW) != Z_OK) {
        free(unpacker);
        fclose(packed);
        return status_fail(-ENOMEM, "out of memory for unpacking");
    }
    unpacker->packed = packed;
    cookie_io_functions_t functions = {.read = unpack_read, .seek = unpack_seek, .close = unpack_close};
    *out = fopencookie(unpacker, "rb", functions);
    if (!*out) {
        unpack_close(unpacker);
        return status_fail(-ENOMEM, "out of memory for unpacking");
    }
    return 0;
}
