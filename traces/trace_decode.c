// traces/trace_decode.c - a file to packets, with the names of their sequences.
//
// Built for files that may be anything: every length is held against what is left of the file, packets are parsed in a
// bounded arena, and messages of the schema do not nest themselves. Memory grows with names and sequences, which take
// bytes in the file each.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/status.h"
#include "traces/trace_gzip.h"
#include "traces/trace_internal.h"

enum {
    MAX_PACKET_BYTES = 4 << 20,      // Perfetto's own stay below 512 KiB; a larger one is passed over
    ARENA_BYTES = 1 << 20,           // first block; parsed packets are several times their size
    MAX_ARENA_BYTES = 256 << 20,
};

// Memory of one packet, given back at once. A chain of blocks, because protobuf-c keeps pointers.
struct block {
    struct block *next;
    size_t used, capacity;
    _Alignas(16) uint8_t bytes[];
};

struct arena {
    struct block *blocks;            // the newest first
    size_t total;
};

static void *arena_alloc(void *user, size_t size)
{
    struct arena *arena = user;
    size = (size + 15) & ~(size_t)15;
    struct block *block = arena->blocks;
    if (!block || block->capacity - block->used < size) {
        size_t capacity = size > ARENA_BYTES ? size : ARENA_BYTES;
        if (size > MAX_ARENA_BYTES || arena->total + capacity > MAX_ARENA_BYTES) {
            return NULL;
        }
        block = malloc(sizeof *block + capacity);
        if (!block) {
            return NULL;
        }
        *block = (struct block){.next = arena->blocks, .capacity = capacity};
        arena->blocks = block;
        arena->total += capacity;
    }
    void *memory = block->bytes + block->used;
    block->used += size;
    return memory;
}

static void arena_free(void *user, void *memory)
{
    (void)user;
    (void)memory;    // goes with the packet
}

// Keeps one block for the next packet.
static void arena_reset(struct arena *arena)
{
    while (arena->blocks && arena->blocks->next) {
        struct block *next = arena->blocks->next;
        arena->total -= arena->blocks->capacity;
        free(arena->blocks);
        arena->blocks = next;
    }
    if (arena->blocks) {
        arena->blocks->used = 0;
    }
}

struct decoder {
    struct trace_decoding *decoding;
    struct arena arena;
    uint8_t *buffer;                        // [buffer_bytes], owned
    size_t buffer_bytes;
    struct id_map sequence_index;           // sequence id -> index
    struct trace_sequence **sequences;      // [n_sequences], owned: packets point at them
    int64_t n_sequences;
};

// The sequence a packet belongs to, made when it is first seen. *out is NULL if the packet names none.
static int find_sequence(struct decoder *decoder, const Perfetto__Protos__TracePacket *packet,
                         struct trace_sequence **out)
{
    *out = NULL;
    uint32_t id = packet->optional_trusted_packet_sequence_id_case ? packet->trusted_packet_sequence_id : 0;
    if (id == 0) {
        return 0;
    }
    int64_t index = id_map_get(&decoder->sequence_index, id);
    if (index >= 0) {
        *out = decoder->sequences[index];
        return 0;
    }
    size_t n = (size_t)decoder->n_sequences + 1;
    struct trace_sequence **grown = realloc(decoder->sequences, n * sizeof *grown);
    decoder->sequences = grown ? grown : decoder->sequences;
    struct trace_sequence *sequence = grown ? calloc(1, sizeof *sequence) : NULL;
    if (!sequence) {
        return status_fail(-ENOMEM, "out of memory for %zu packet sequences", n);
    }
    sequence->id = id;
    decoder->sequences[decoder->n_sequences++] = sequence;
    *out = sequence;
    return id_map_set(&decoder->sequence_index, id, decoder->n_sequences - 1);
}

// Lets a packet change its sequence's state, then hands it on.
static int deliver(struct decoder *decoder, const Perfetto__Protos__TracePacket *packet, int64_t offset)
{
    struct trace_decoding *decoding = decoder->decoding;
    struct trace_sequence *sequence = NULL;
    int error = packet ? find_sequence(decoder, packet, &sequence) : 0;
    if (!error && sequence) {
        sequence->packets++;
        if (packet->sequence_flags & PERFETTO__PROTOS__TRACE_PACKET__SEQUENCE_FLAGS__SEQ_INCREMENTAL_STATE_CLEARED) {
            trace_forget_names(sequence);
            sequence->cleared = true;
        }
        if (packet->trace_packet_defaults) {
            const Perfetto__Protos__TracePacketDefaults *defaults = packet->trace_packet_defaults;
            sequence->default_clock = defaults->timestamp_clock_id;
            sequence->default_track = defaults->track_event_defaults ? defaults->track_event_defaults->track_uuid : 0;
        }
        error = packet->interned_data ? trace_intern_all(sequence, packet->interned_data) : 0;
    }
    if (error) {
        return status_prefix(error, "%s: byte %lld: ", decoding->name, (long long)offset);
    }
    struct trace_packet handed = {.packet = packet, .sequence = sequence, .offset = offset};
    decoding->packets++;
    return decoding->packet ? decoding->packet(decoding->user, &handed) : 0;
}

static int cut_off(struct trace_decoding *decoding, int64_t offset)
{
    if (ferror(decoding->stream)) {
        return status_fail(-EINVAL, "%s: cannot read behind byte %lld: %s", decoding->name, (long long)offset,
                           errno == EBADMSG ? "what it holds in gzip's format is damaged" : strerror(errno));
    }
    decoding->truncated = true;
    decoding->offset = offset;
    return status_fail(-EINVAL,
                       "%s: byte %lld: the file ends in the middle of a packet; it was cut, or is still written",
                       decoding->name, (long long)offset);
}

// A varint at the stream's place. Returns 1, 0 where the file ends, -1 if it is longer than 64 bits.
static int read_varint(struct trace_decoding *decoding, uint64_t *out)
{
    *out = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        int byte = decoding->offset < decoding->size ? getc_unlocked(decoding->stream) : EOF;
        if (byte == EOF) {
            return 0;
        }
        decoding->offset++;
        *out |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            return 1;
        }
    }
    return -1;
}

// Passes over `size` bytes, which the file is known to have left.
static int pass_over(struct decoder *decoder, int64_t size, int64_t offset)
{
    struct trace_decoding *decoding = decoder->decoding;
    char bytes[4096];
    for (int64_t left = size; left > 0;) {
        size_t piece = left < (int64_t)sizeof bytes ? (size_t)left : sizeof bytes;
        if (fread(bytes, 1, piece, decoding->stream) != piece) {
            return cut_off(decoding, offset);
        }
        left -= (int64_t)piece;
    }
    decoding->offset += size;
    return deliver(decoder, NULL, offset);
}

static int read_packet(struct decoder *decoder, size_t size, int64_t offset)
{
    struct trace_decoding *decoding = decoder->decoding;
    if (size > decoder->buffer_bytes) {
        free(decoder->buffer);
        decoder->buffer_bytes = 0;
        decoder->buffer = malloc(size);
        if (!decoder->buffer) {
            return status_fail(-ENOMEM, "%s: out of memory for a packet of %zu bytes", decoding->name, size);
        }
        decoder->buffer_bytes = size;
    }
    if (size && fread(decoder->buffer, 1, size, decoding->stream) != size) {
        return cut_off(decoding, offset);
    }
    decoding->offset += (int64_t)size;
    ProtobufCAllocator allocator = {.alloc = arena_alloc, .free = arena_free, .allocator_data = &decoder->arena};
    Perfetto__Protos__TracePacket *packet =
        perfetto__protos__trace_packet__unpack(&allocator, size, size ? decoder->buffer : (const uint8_t *)"");
    int error = packet ? deliver(decoder, packet, offset)
                       : status_fail(-EINVAL, "%s: byte %lld: this is no packet of a trace; the file is damaged",
                                     decoding->name, (long long)offset);
    arena_reset(&decoder->arena);
    return error;
}

// One field of the Trace message: a packet, or something of a newer schema that is passed over.
static int read_field(struct decoder *decoder)
{
    struct trace_decoding *decoding = decoder->decoding;
    int64_t offset = decoding->offset;
    uint64_t tag, size;
    int got = read_varint(decoding, &tag);
    if (got > 0 && ((tag & 7) != 2 || tag >> 3 == 0)) {    // neither a message nor bytes
        got = -1;
    }
    if (got > 0) {
        got = read_varint(decoding, &size);
    }
    if (got == 0) {
        return cut_off(decoding, offset);
    }
    if (got < 0) {
        return status_fail(-EINVAL, "%s: byte %lld: %s", decoding->name, (long long)offset,
                           offset == 0 ? "not a Perfetto trace (.pftrace)"
                                       : "no packet begins here; the file is damaged");
    }
    if (size > (uint64_t)(decoding->size - decoding->offset)) {
        return cut_off(decoding, offset);
    }
    bool known = tag >> 3 == 1 && size <= MAX_PACKET_BYTES;
    return known ? read_packet(decoder, (size_t)size, offset) : pass_over(decoder, (int64_t)size, offset);
}

static bool more_follows(const struct trace_decoding *decoding)
{
    if (decoding->size != TRACE_SIZE_UNKNOWN) {
        return decoding->offset < decoding->size;
    }
    int next = getc_unlocked(decoding->stream);
    return next != EOF && ungetc(next, decoding->stream) != EOF;
}

int trace_decode(struct trace_decoding *decoding)
{
    struct decoder decoder = {.decoding = decoding};
    decoding->packets = decoding->offset = 0;
    decoding->truncated = false;
    int first = decoding->size > 0 ? getc_unlocked(decoding->stream) : EOF;
    int error = 0;
    if (first == EOF && decoding->size > 0 && ferror(decoding->stream)) {
        error = cut_off(decoding, 0);
    } else if (first == EOF) {
        error = status_fail(-EINVAL, "%s: is empty; expected a Perfetto trace (.pftrace)", decoding->name);
    } else if (first == 0x28) {    // the first byte of zstd
        error = status_fail(-EINVAL, "%s: is compressed; unpack it first (unzstd)", decoding->name);
    } else if (first != 0x0a) {
        error = status_fail(-EINVAL, "%s: byte 0: not a Perfetto trace (.pftrace)", decoding->name);
    } else {
        ungetc(first, decoding->stream);
    }
    while (!error && more_follows(decoding)) {
        error = read_field(&decoder);
    }
    if (!error && ferror(decoding->stream)) {
        error = cut_off(decoding, decoding->offset);
    }
    for (int64_t i = 0; i < decoder.n_sequences; i++) {
        trace_forget_names(decoder.sequences[i]);
        free(decoder.sequences[i]->interned);
        free(decoder.sequences[i]);
    }
    free(decoder.sequences);
    id_map_free(&decoder.sequence_index);
    arena_reset(&decoder.arena);
    free(decoder.arena.blocks);
    free(decoder.buffer);
    return error;
}

int trace_open_file(FILE **stream, int64_t *size, const char *path)
{
    struct stat info;
    *stream = NULL;
    if (stat(path, &info) != 0) {
        return status_fail(-EINVAL, "%s: cannot read: %s", path, strerror(errno));
    }
    if (!S_ISREG(info.st_mode)) {
        return status_fail(-EINVAL, "%s: is %s; expected a trace file (.pftrace)", path,
                           S_ISDIR(info.st_mode) ? "a folder" : "no regular file");
    }
    *size = (int64_t)info.st_size;
    FILE *file = fopen(path, "rbe");
    if (!file) {
        return status_fail(-EINVAL, "%s: cannot read: %s", path, strerror(errno));
    }
    unsigned char magic[2] = {0};
    bool packed = fread(magic, 1, 2, file) == 2 && magic[0] == 0x1f && magic[1] == 0x8b;
    rewind(file);
    if (packed) {
        *size = TRACE_SIZE_UNKNOWN;
        return trace_unpack(stream, file);
    }
    *stream = file;
    return 0;
}
