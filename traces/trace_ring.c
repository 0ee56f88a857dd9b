// traces/trace_ring.c - blocks of samples, the oldest forgotten first.
#include "traces/trace_ring.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "traces/intern_table.h"

enum {
    BLOCK_BYTES = 64 << 10,                   // what is forgotten at once
    DEFAULT_MAX_BYTES = 256 << 20,
    NS_PER_S = 1000000000,
};

enum kind { KIND_STAGE, KIND_STEP, KIND_REQUEST, KIND_COUNTER, KIND_KERNEL, KIND_LAUNCH, KIND_GAUGE };

struct entry {
    enum kind kind;
    uint32_t bytes;                           // with this header
    union {
        struct stage_sample stage;
        struct step_sample step;
        struct request_sample request;
        struct counter_sample counter;
        struct kernel_sample kernel;
        struct launch_sample launch;
        struct gauge_sample gauge;
    } as;                                     // only as much of it as the kind needs is there
};

struct block {
    struct block *next;                       // newer
    size_t used;
    int64_t last_ns;                          // the latest end of a sample in it
    _Alignas(16) uint8_t bytes[BLOCK_BYTES];
};

struct trace_ring {
    struct trace_ring_options options;
    struct block *oldest, *newest;
    int64_t n_blocks, newest_ns;
    bool forgot;                              // something: the oldest step may lack stages
    struct sample_source *sources;            // [n_sources], owned
    int32_t n_sources;
    struct request_sample *open;    // [n_open] of requests whose changes were forgotten, the last change each; owned
    int64_t n_open, open_capacity;
    struct loss_sample *losses;               // [n_losses], owned: the last of each source that has any
    int32_t n_losses;
    struct intern_table names;                // texts that samples point at
    struct step_sample slow;
    bool slow_waits;                          // a slow step's dump is due
    int64_t quiet_until_ns;
    int error;
};

int trace_ring_open(struct trace_ring **out, const struct trace_ring_options *options)
{
    *out = calloc(1, sizeof **out);
    if (!*out) {
        return status_fail(-ENOMEM, "out of memory for a ring of samples");
    }
    (*out)->options = *options;
    if (!options->max_bytes) {
        (*out)->options.max_bytes = DEFAULT_MAX_BYTES;
    }
    (*out)->newest_ns = (*out)->quiet_until_ns = INT64_MIN;
    return 0;
}

static const struct entry *entry_at(const struct block *block, size_t at)
{
    return (const struct entry *)(const void *)(block->bytes + at);
}

// A request's change that is forgotten: where it stands at the begin of what is kept.
static void forget_request(struct trace_ring *ring, const struct request_sample *sample)
{
    int64_t i = 0;
    while (i < ring->n_open && (ring->open[i].request != sample->request || ring->open[i].source != sample->source)) {
        i++;
    }
    if (sample->state == REQUEST_FINISHED) {
        if (i < ring->n_open) {
            memmove(&ring->open[i], &ring->open[i + 1], (size_t)(ring->n_open - i - 1) * sizeof *ring->open);
            ring->n_open--;
        }
        return;
    }
    if (i == ring->n_open) {
        if (ring->n_open == ring->open_capacity) {
            int64_t capacity = ring->open_capacity ? 2 * ring->open_capacity : 64;
            struct request_sample *grown = realloc(ring->open, (size_t)capacity * sizeof *grown);
            if (!grown) {
                ring->error = -ENOMEM;
                return;
            }
            ring->open = grown;
            ring->open_capacity = capacity;
        }
        ring->n_open++;
    }
    ring->open[i] = *sample;
}

static void forget_oldest(struct trace_ring *ring)
{
    struct block *block = ring->oldest;
    for (size_t at = 0; at < block->used; at += entry_at(block, at)->bytes) {
        const struct entry *entry = entry_at(block, at);
        if (entry->kind == KIND_REQUEST) {
            forget_request(ring, &entry->as.request);
        }
    }
    ring->oldest = block->next;
    ring->newest = ring->oldest ? ring->newest : NULL;
    ring->n_blocks--;
    ring->forgot = true;
    free(block);
}

static struct block *add_block(struct trace_ring *ring)
{
    while (ring->oldest && (ring->oldest->last_ns < ring->newest_ns - ring->options.keep_ns ||
                            (ring->n_blocks + 1) * (int64_t)sizeof *ring->oldest > ring->options.max_bytes)) {
        forget_oldest(ring);
    }
    struct block *block = malloc(sizeof *block);
    if (!block) {
        ring->error = -ENOMEM;
        return NULL;
    }
    block->next = NULL;
    block->used = 0;
    block->last_ns = INT64_MIN;
    if (ring->newest) {
        ring->newest->next = block;
    } else {
        ring->oldest = block;
    }
    ring->newest = block;
    ring->n_blocks++;
    return block;
}

// Lets the owner know of a slow step once what belongs to it must have come.
static void tell_slow(struct trace_ring *ring)
{
    ring->slow_waits = false;
    ring->quiet_until_ns = ring->slow.begin_ns + ring->slow.duration_ns + ring->options.keep_ns;
    ring->options.slow(ring->options.user, ring, &ring->slow);
}

static void keep(struct trace_ring *ring, enum kind kind, const void *sample, size_t n, int64_t end_ns)
{
    size_t bytes = (offsetof(struct entry, as) + n + 15) & ~(size_t)15;
    struct block *block = ring->newest;
    ring->newest_ns = end_ns > ring->newest_ns ? end_ns : ring->newest_ns;
    if (!block || block->used + bytes > sizeof block->bytes) {
        block = add_block(ring);
    }
    if (!block) {
        return;
    }
    struct entry *entry = (struct entry *)(void *)(block->bytes + block->used);
    entry->kind = kind;
    entry->bytes = (uint32_t)bytes;
    memcpy(&entry->as, sample, n);
    block->used += bytes;
    block->last_ns = end_ns > block->last_ns ? end_ns : block->last_ns;
    int64_t settle_ns = ring->options.keep_ns / 4 < NS_PER_S ? ring->options.keep_ns / 4 : NS_PER_S;
    if (ring->slow_waits && ring->newest_ns - (ring->slow.begin_ns + ring->slow.duration_ns) > settle_ns) {
        tell_slow(ring);
    }
}

static const char *keep_name(struct trace_ring *ring, const char *name)
{
    struct intern_entry *entry = intern_table_find(&ring->names, &(struct intern_key){.text = name ? name : ""});
    ring->error = entry ? ring->error : -ENOMEM;
    return entry ? entry->text : "";
}

static void on_source(void *user, const struct sample_source *source)
{
    struct trace_ring *ring = user;
    struct sample_source *grown = realloc(ring->sources, ((size_t)ring->n_sources + 1) * sizeof *grown);
    if (!grown) {
        ring->error = -ENOMEM;
        return;
    }
    ring->sources = grown;
    grown[ring->n_sources++] = *source;
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    keep(user, KIND_STAGE, sample, sizeof *sample, sample->begin_ns + sample->duration_ns);
}

static void on_step(void *user, const struct step_sample *sample)
{
    struct trace_ring *ring = user;
    keep(ring, KIND_STEP, sample, sizeof *sample, sample->begin_ns + sample->duration_ns);
    if (ring->options.slow_step_ns > 0 && sample->duration_ns > ring->options.slow_step_ns && !ring->slow_waits &&
        sample->begin_ns >= ring->quiet_until_ns) {
        ring->slow = *sample;
        ring->slow_waits = true;
    }
}

static void on_request(void *user, const struct request_sample *sample)
{
    keep(user, KIND_REQUEST, sample, sizeof *sample, sample->time_ns);
}

static void on_counter(void *user, const struct counter_sample *sample)
{
    keep(user, KIND_COUNTER, sample, sizeof *sample, sample->time_ns);
}

static void on_kernel(void *user, const struct kernel_sample *sample)
{
    struct kernel_sample kept = *sample;
    kept.name = keep_name(user, sample->name);
    keep(user, KIND_KERNEL, &kept, sizeof kept, sample->begin_ns + sample->duration_ns);
}

static void on_launch(void *user, const struct launch_sample *sample)
{
    struct launch_sample kept = *sample;
    kept.name = keep_name(user, sample->name);
    keep(user, KIND_LAUNCH, &kept, sizeof kept, sample->begin_ns + sample->duration_ns);
}

static void on_gauge(void *user, const struct gauge_sample *sample)
{
    struct gauge_sample kept = *sample;
    kept.name = keep_name(user, sample->name);
    kept.unit = keep_name(user, sample->unit);
    keep(user, KIND_GAUGE, &kept, sizeof kept, sample->time_ns);
}

// A source's losses add up: only its last counts, and it is never forgotten.
static void on_loss(void *user, const struct loss_sample *sample)
{
    struct trace_ring *ring = user;
    int32_t i = 0;
    while (i < ring->n_losses && ring->losses[i].source != sample->source) {
        i++;
    }
    if (i == ring->n_losses) {
        struct loss_sample *grown = realloc(ring->losses, ((size_t)i + 1) * sizeof *grown);
        if (!grown) {
            ring->error = -ENOMEM;
            return;
        }
        ring->losses = grown;
        ring->n_losses++;
    }
    ring->losses[i] = *sample;
}

struct sample_sink trace_ring_sink(struct trace_ring *ring)
{
    return (struct sample_sink){
        .user = ring,
        .source = on_source,
        .stage = on_stage,
        .step = on_step,
        .request = on_request,
        .counter = on_counter,
        .kernel = on_kernel,
        .launch = on_launch,
        .gauge = on_gauge,
        .loss = on_loss,
    };
}

int trace_ring_close(struct trace_ring *ring)
{
    if (!ring) {
        return 0;
    }
    if (ring->slow_waits) {
        tell_slow(ring);
    }
    int error = ring->error ? status_fail(ring->error, "out of memory for the last samples") : 0;
    while (ring->oldest) {
        forget_oldest(ring);
    }
    intern_table_free(&ring->names);
    free(ring->sources);
    free(ring->losses);
    free(ring->open);
    free(ring);
    return error;
}

// What of the ring goes into a dump.
struct dump {
    struct sample_sink to;
    struct id_map sources;                    // ids that samples name
    struct id_map launches;                   // source and launch -> bits: 1 launched, 2 worked
    const struct entry *last_step;
    bool begun, ended;                        // behind the first step, behind the last
    int error;
};

static uint64_t launch_key(int32_t source, uint32_t launch)
{
    return (uint64_t)(uint32_t)source << 32 | launch;
}

static void note(struct dump *dump, struct id_map *map, uint64_t key, int64_t bit)
{
    int64_t seen = id_map_get(map, key);
    int error = id_map_set(map, key, (seen < 0 ? 0 : seen) | bit);
    dump->error = dump->error ? dump->error : error;
}

static bool is_whole(const struct dump *dump, int32_t source, uint32_t launch)
{
    return id_map_get(&dump->launches, launch_key(source, launch)) == 3;
}

// Every sample's first member is its source.
static int32_t source_of(const struct entry *entry)
{
    int32_t source;
    memcpy(&source, &entry->as, sizeof source);
    return source;
}

static void look_at(struct dump *dump, const struct entry *entry)
{
    note(dump, &dump->sources, (uint32_t)source_of(entry), 1);
    if (entry->kind == KIND_LAUNCH) {
        note(dump, &dump->launches, launch_key(entry->as.launch.source, entry->as.launch.launch), 1);
    } else if (entry->kind == KIND_KERNEL) {
        note(dump, &dump->launches, launch_key(entry->as.kernel.source, entry->as.kernel.launch), 2);
    } else if (entry->kind == KIND_STEP) {
        dump->last_step = entry;
    }
}

static void hand_on(struct dump *dump, const struct entry *entry)
{
    const struct sample_sink *to = &dump->to;
    switch (entry->kind) {
    case KIND_STAGE:
        if (dump->begun && !dump->ended) {
            to->stage(to->user, &entry->as.stage);
        }
        break;
    case KIND_STEP:
        if (dump->begun) {
            to->step(to->user, &entry->as.step);
        }
        dump->begun = true;
        dump->ended = entry == dump->last_step;
        break;
    case KIND_KERNEL: {
        struct kernel_sample kernel = entry->as.kernel;
        kernel.launch = is_whole(dump, kernel.source, kernel.launch) ? kernel.launch : 0;
        to->kernel(to->user, &kernel);
        break;
    }
    case KIND_LAUNCH:
        if (is_whole(dump, entry->as.launch.source, entry->as.launch.launch)) {
            to->launch(to->user, &entry->as.launch);
        }
        break;
    case KIND_REQUEST: to->request(to->user, &entry->as.request); break;
    case KIND_COUNTER: to->counter(to->user, &entry->as.counter); break;
    case KIND_GAUGE: to->gauge(to->user, &entry->as.gauge); break;
    }
}

static void for_each(const struct trace_ring *ring, struct dump *dump,
                     void (*visit)(struct dump *, const struct entry *))
{
    for (const struct block *block = ring->oldest; block; block = block->next) {
        for (size_t at = 0; at < block->used; at += entry_at(block, at)->bytes) {
            visit(dump, entry_at(block, at));
        }
    }
}

int trace_ring_dump(struct trace_ring *ring, const struct trace_writer_options *options)
{
    struct trace_writer *writer;
    struct dump dump = {.begun = !ring->forgot};
    int error = trace_writer_open(&writer, options);
    if (error) {
        return error;
    }
    dump.to = trace_writer_sink(writer);
    for_each(ring, &dump, look_at);
    dump.ended = !dump.last_step;
    for (int64_t i = 0; i < ring->n_open; i++) {
        note(&dump, &dump.sources, (uint32_t)ring->open[i].source, 1);
    }
    for (int32_t i = 0; i < ring->n_losses; i++) {
        note(&dump, &dump.sources, (uint32_t)ring->losses[i].source, 1);
    }
    for (int32_t i = 0; i < ring->n_sources; i++) {
        if (id_map_get(&dump.sources, (uint32_t)ring->sources[i].id) >= 0) {
            dump.to.source(dump.to.user, &ring->sources[i]);
        }
    }
    for (int64_t i = 0; i < ring->n_open; i++) {
        dump.to.request(dump.to.user, &ring->open[i]);
    }
    for_each(ring, &dump, hand_on);
    for (int32_t i = 0; i < ring->n_losses; i++) {
        dump.to.loss(dump.to.user, &ring->losses[i]);
    }
    id_map_free(&dump.sources);
    id_map_free(&dump.launches);
    if (dump.error) {    // the file would not be what was asked for
        trace_writer_abandon(writer);
        return status_fail(dump.error, "%s: out of memory", options->path);
    }
    return trace_writer_close(writer);
}
