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

const struct trace_interned *trace_interned(const struct trace_sequence *sequence, enum trace_intern kind, uint64_t iid)
{
    int64_t index = sequence ? id_map_get(&sequence->names[kind], iid) : -1;
    return index < 0 ? NULL : &sequence->interned[index];
}

static void forget_names(struct trace_sequence *sequence)
{
    for (int64_t i = 0; i < sequence->n_interned; i++) {
        free(sequence->interned[i].text);
    }
    sequence->n_interned = 0;
    for (int32_t kind = 0; kind < INTERN_COUNT; kind++) {
        id_map_free(&sequence->names[kind]);
    }
    sequence->default_track = 0;
    sequence->default_clock = 0;
}

static int32_t annotation_of(const char *name)
{
    for (int32_t i = 0; i < ANNOTATION_COUNT; i++) {
        if (strcmp(trace_annotation_name((enum trace_annotation)i), name) == 0) {
            return i;
        }
    }
    return -1;
}

static int intern(struct trace_sequence *sequence, enum trace_intern kind, uint64_t iid, const char *name)
{
    if (sequence->n_interned == sequence->capacity) {
        int64_t capacity = sequence->capacity ? 2 * sequence->capacity : 64;
        struct trace_interned *grown = realloc(sequence->interned, (size_t)capacity * sizeof *grown);
        if (!grown) {
            return status_fail(-ENOMEM, "out of memory for %lld names", (long long)capacity);
        }
        sequence->interned = grown;
        sequence->capacity = capacity;
    }
    char *text = strdup(name ? name : "");
    if (!text) {
        return status_fail(-ENOMEM, "out of memory for a name");
    }
    sequence->interned[sequence->n_interned] = (struct trace_interned){
        .text = text,
        .annotation = kind == INTERN_ANNOTATION ? annotation_of(text) : -1,
    };
    return id_map_set(&sequence->names[kind], iid, sequence->n_interned++);
}

static int intern_all(struct trace_sequence *sequence, const Perfetto__Protos__InternedData *data)
{
    int error = 0;
    for (size_t i = 0; i < data->n_event_categories && !error; i++) {
        error = intern(sequence, INTERN_CATEGORY, data->event_categories[i]->iid, data->event_categories[i]->name);
    }
    for (size_t i = 0; i < data->n_event_names && !error; i++) {
        error = intern(sequence, INTERN_NAME, data->event_names[i]->iid, data->event_names[i]->name);
    }
    for (size_t i = 0; i < data->n_debug_annotation_names && !error; i++) {
        error = intern(sequence, INTERN_ANNOTATION, data->debug_annotation_names[i]->iid,
                       data->debug_annotation_names[i]->name);
    }
    return error;
}

// The sequence a packet belongs to, made when it is first seen. *out is NULL if the packet names none.
static int find_sequence(struct decoder *decoder, const Perfetto__Protos__TracePacket *packet, struct trace_sequence **out)
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
            forget_names(sequence);
            sequence->cleared = true;
        }
        if (packet->trace_packet_defaults) {
            const Perfetto__Protos__TracePacketDefaults *defaults = packet->trace_packet_defaults;
            sequence->default_clock = defaults->timestamp_clock_id;
            sequence->default_track = defaults->track_event_defaults ? defaults->track_event_defaults->track_uuid : 0;
        }
        error = packet->interned_data ? intern_all(sequence, packet->interned_data) : 0;
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
    decoding->truncated = true;
    decoding->offset = offset;
    return status_fail(-EINVAL, "%s: byte %lld: the file ends in the middle of a packet; it was cut, or is still written",
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
                           offset == 0 ? "not a Perfetto trace (.pftrace)" : "no packet begins here; the file is damaged");
    }
    if (size > (uint64_t)(decoding->size - decoding->offset)) {
        return cut_off(decoding, offset);
    }
    bool known = tag >> 3 == 1 && size <= MAX_PACKET_BYTES;
    return known ? read_packet(decoder, (size_t)size, offset) : pass_over(decoder, (int64_t)size, offset);
}

int trace_decode(struct trace_decoding *decoding)
{
    struct decoder decoder = {.decoding = decoding};
    decoding->packets = decoding->offset = 0;
    decoding->truncated = false;
    int first = decoding->size > 0 ? getc_unlocked(decoding->stream) : EOF;
    int error = 0;
    if (first == EOF) {
        error = status_fail(-EINVAL, "%s: is empty; expected a Perfetto trace (.pftrace)", decoding->name);
    } else if (first == 0x1f || first == 0x28) {    // first bytes of gzip and zstd
        error = status_fail(-EINVAL, "%s: is compressed; unpack it first (gunzip or unzstd)", decoding->name);
    } else if (first != 0x0a) {
        error = status_fail(-EINVAL, "%s: byte 0: not a Perfetto trace (.pftrace)", decoding->name);
    } else {
        ungetc(first, decoding->stream);
    }
    while (!error && decoding->offset < decoding->size) {
        error = read_field(&decoder);
    }
    for (int64_t i = 0; i < decoder.n_sequences; i++) {
        forget_names(decoder.sequences[i]);
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
    *stream = fopen(path, "rbe");
    return *stream ? 0 : status_fail(-EINVAL, "%s: cannot read: %s", path, strerror(errno));
}

static void resolve_annotation(struct trace_event *out, const struct trace_sequence *sequence,
                               const Perfetto__Protos__DebugAnnotation *annotation)
{
    int32_t which = -1;
    if (annotation->name_field_case == PERFETTO__PROTOS__DEBUG_ANNOTATION__NAME_FIELD_NAME_IID) {
        const struct trace_interned *name = trace_interned(sequence, INTERN_ANNOTATION, annotation->name_iid);
        out->unresolved += !name;
        which = name ? name->annotation : -1;
    } else if (annotation->name_field_case == PERFETTO__PROTOS__DEBUG_ANNOTATION__NAME_FIELD_NAME) {
        which = annotation_of(annotation->name);
    }
    if (which < 0) {
        return;
    }
    switch (annotation->value_case) {
    case PERFETTO__PROTOS__DEBUG_ANNOTATION__VALUE_INT_VALUE: out->number[which] = annotation->int_value; break;
    case PERFETTO__PROTOS__DEBUG_ANNOTATION__VALUE_UINT_VALUE: out->number[which] = (int64_t)annotation->uint_value; break;
    case PERFETTO__PROTOS__DEBUG_ANNOTATION__VALUE_BOOL_VALUE: out->number[which] = annotation->bool_value; break;
    case PERFETTO__PROTOS__DEBUG_ANNOTATION__VALUE_STRING_VALUE: out->text[which] = annotation->string_value; break;
    default: return;    // a kind of value that no annotation of ours has
    }
    out->present |= 1u << which;
}

void trace_event_resolve(struct trace_event *out, const struct trace_packet *packet)
{
    _Static_assert(ANNOTATION_COUNT <= 32, "`present` has a bit for each annotation");
    const Perfetto__Protos__TrackEvent *event = packet->packet->track_event;
    const struct trace_sequence *sequence = packet->sequence;
    *out = (struct trace_event){
        .type = (int32_t)event->type,
        .track = event->has_track_uuid ? event->track_uuid : sequence ? sequence->default_track : 0,
        .time_ns = (int64_t)packet->packet->timestamp,
        .name = "",
        .category = "",
    };
    for (int32_t i = 0; i < ANNOTATION_COUNT; i++) {
        out->text[i] = "";
    }
    if (event->name_field_case == PERFETTO__PROTOS__TRACK_EVENT__NAME_FIELD_NAME) {
        out->name = event->name;
    } else if (event->name_field_case == PERFETTO__PROTOS__TRACK_EVENT__NAME_FIELD_NAME_IID) {
        const struct trace_interned *name = trace_interned(sequence, INTERN_NAME, event->name_iid);
        out->unresolved += !name;
        out->name = name ? name->text : "";
    }
    for (size_t i = 0; i < event->n_category_iids; i++) {
        const struct trace_interned *category = trace_interned(sequence, INTERN_CATEGORY, event->category_iids[i]);
        out->unresolved += !category;
        out->category = category && !out->category[0] ? category->text : out->category;
    }
    if (!out->category[0] && event->n_categories > 0) {
        out->category = event->categories[0];
    }
    for (size_t i = 0; i < event->n_debug_annotations; i++) {
        resolve_annotation(out, sequence, event->debug_annotations[i]);
    }
}
