// cupti/cupti_join.c - reads records, keeps them until their calls are known, hands them over.
#include "cupti/cupti_join.h"

#include <stdlib.h>
#include <string.h>

#include "cupti/grow.h"

// Patience is spent by flushes that bring no tag: ten times as fast once a later call's tag has come. Numbers of calls
// ascend, and one thread's records come in its order, so a tag that was passed by will hardly come, while one that was
// not may lie in a buffer that a busy GPU keeps back for seconds.
enum { PATIENCE = 600, WAITED = 6, PASSED_BY = 60 };    // a flush each 100 ms: ten seconds; one second

struct pending_work {
    uint32_t call;
    int32_t waited;
    uint64_t node;
    struct kernel_sample sample;
};

// Until the tag `since`, a node's number meant `before`.
struct node_change {
    uint64_t node, since;
    int32_t before;
};

struct pending_launch {
    struct launch_sample sample;
    bool driver;               // a function of the driver
    int32_t waited;
};

void join_open(struct join *join)
{
    *join = (struct join){0};
    pthread_mutex_init(&join->mutex, NULL);
}

void join_close(struct join *join)
{
    number_map_free(&join->nodes);
    number_map_free(&join->changed);
    free(join->changes);
    number_map_free(&join->of_runtime);
    number_map_free(&join->tags);
    number_map_free(&join->old_tags);
    free(join->works);
    free(join->launches);
    pthread_mutex_destroy(&join->mutex);
}

// ---------------------------------------------------------------------------------------------------------------------
// Nodes of graphs

// What the node's number means at a tag; -1: nothing. Under the mutex.
static int32_t meaning(const struct join *join, uint64_t node, uint64_t tag)
{
    uint64_t ordinal, found;
    int32_t means = number_map_get(&join->nodes, node, &ordinal) ? (int32_t)ordinal : -1;
    if (!number_map_get(&join->changed, node, &found)) {
        return means;
    }
    for (int64_t c = join->n_changes - 1; c >= 0; c--) {
        if (join->changes[c].node == node && tag < join->changes[c].since) {
            means = join->changes[c].before;
        }
    }
    return means;
}

// Notes that the node meant something else until now. Without memory, works that ran it may be told as another stage's.
static void note_change(struct join *join, uint64_t node, int32_t before, uint64_t since)
{
    void *room = grow_for_one(join->changes, join->n_changes, &join->change_capacity, sizeof *join->changes);
    if (room && number_map_put(&join->changed, node, 1) == 0) {
        join->changes = room;
        join->changes[join->n_changes++] = (struct node_change){node, since, before};
    } else if (room) {
        join->changes = room;
    }
}

// Where there is no memory, the node's kernels are of no stage, which shows.
void join_node_created(struct join *join, uint64_t node, int32_t ordinal, uint64_t tag)
{
    uint64_t old;
    pthread_mutex_lock(&join->mutex);
    bool known = number_map_get(&join->nodes, node, &old);
    if (known || number_map_get(&join->changed, node, &old)) {
        note_change(join, node, known ? (int32_t)old : -1, tag);
    }
    if (ordinal < 0 || number_map_put(&join->nodes, node, (uint64_t)ordinal)) {
        number_map_remove(&join->nodes, node);
    }
    pthread_mutex_unlock(&join->mutex);
}

static int32_t ordinal_of(struct join *join, uint64_t node, uint64_t tag)
{
    pthread_mutex_lock(&join->mutex);
    int32_t ordinal = meaning(join, node, tag);
    pthread_mutex_unlock(&join->mutex);
    return ordinal;
}

void join_node_cloned(struct join *join, uint64_t node, uint64_t original, uint64_t tag)
{
    join_node_created(join, node, ordinal_of(join, original, tag), tag);
}

void join_node_destroyed(struct join *join, uint64_t node, uint64_t tag)
{
    join_node_created(join, node, -1, tag);
}

// ---------------------------------------------------------------------------------------------------------------------
// Records

static void keep_work(struct join *join, uint32_t call, uint64_t node, uint64_t start, uint64_t end,
                      const struct kernel_sample *sample)
{
    if (start == 0 || end < start) {
        join->totals.invalid++;
        return;
    }
    void *room = grow_for_one(join->works, join->n_works, &join->work_capacity, sizeof *join->works);
    if (!room) {
        join->totals.dropped++;
        return;
    }
    join->works = room;
    struct pending_work *work = &join->works[join->n_works++];
    *work = (struct pending_work){.call = call, .node = node, .sample = *sample};
    work->sample.launch = call;
    work->sample.begin_ns = (int64_t)start;
    work->sample.duration_ns = (int64_t)(end - start);
}

static void read_kernel(struct join *join, const struct cupti_kernel *k)
{
    struct kernel_sample sample = {
        .work = WORK_KERNEL,
        .name = k->name ? k->name : "",
        .device = (int32_t)k->device,
        .context = (int32_t)k->context,
        .stream = (int32_t)k->stream,
        .grid = {k->grid[0], k->grid[1], k->grid[2]},
        .block = {k->block[0], k->block[1], k->block[2]},
        .registers = k->registers_per_thread,
        .static_shared_bytes = k->static_shared,
        .dynamic_shared_bytes = k->dynamic_shared,
    };
    keep_work(join, k->correlation, k->node, k->start, k->end, &sample);
}

static void read_memcpy(struct join *join, const struct cupti_memcpy *m)
{
    // CUPTI's numbers for where a copy leads; others are rare enough to need no name of their own.
    static const char *const names[] = {[1] = "copy to device", [2] = "copy to host", [8] = "copy on device",
                                        [10] = "copy between devices"};
    const char *name = m->copy_kind < sizeof names / sizeof *names ? names[m->copy_kind] : NULL;
    struct kernel_sample sample = {.work = WORK_COPY,
                                   .name = name ? name : "copy",
                                   .device = (int32_t)m->device,
                                   .context = (int32_t)m->context,
                                   .stream = (int32_t)m->stream,
                                   .bytes = (int64_t)m->bytes};
    keep_work(join, m->correlation, m->node, m->start, m->end, &sample);
}

static void read_memset(struct join *join, const struct cupti_memset *m)
{
    struct kernel_sample sample = {.work = WORK_FILL,
                                   .name = "fill",
                                   .device = (int32_t)m->device,
                                   .context = (int32_t)m->context,
                                   .stream = (int32_t)m->stream,
                                   .bytes = (int64_t)m->bytes};
    keep_work(join, m->correlation, m->node, m->start, m->end, &sample);
}

static void read_graph(struct join *join, const struct cupti_graph *g)
{
    struct kernel_sample sample = {.work = WORK_KERNEL, .name = "CUDA graph", .device = (int32_t)g->device,
                                   .context = (int32_t)g->context, .stream = (int32_t)g->stream};
    keep_work(join, g->correlation, 0, g->start, g->end, &sample);
}

static void read_call(struct join *join, const struct cupti_call *c)
{
    const struct cupti_function *f = cupti_functions;
    while (f->name && (f->kind != c->kind || f->id != c->id)) {
        f++;
    }
    if (!f->name) {
        return;    // a library that cannot tell single functions tells all
    }
    if (c->start == 0 || c->end < c->start) {
        join->totals.invalid++;
        return;
    }
    void *room = grow_for_one(join->launches, join->n_launches, &join->launch_capacity, sizeof *join->launches);
    if (!room) {
        join->totals.dropped++;
        return;
    }
    join->launches = room;
    join->launches[join->n_launches++] = (struct pending_launch){
        .sample = {.launch = c->correlation,
                   .name = f->name,
                   .thread = (int32_t)c->thread,
                   .begin_ns = (int64_t)c->start,
                   .duration_ns = (int64_t)(c->end - c->start)},
        .driver = c->kind == CUPTI_DRIVER,
    };
}

static void read_external(struct join *join, const struct cupti_external *e)
{
    if (e->external_kind != CUPTI_EXTERNAL_OURS) {
        return;
    }
    if (number_map_put(&join->tags, e->correlation, e->id)) {
        join->totals.dropped++;
    }
    join->newest_tag = e->id > join->newest_tag ? e->id : join->newest_tag;
    join->newest_call = (int32_t)(e->correlation - join->newest_call) > 0 ? e->correlation : join->newest_call;
}

// Records are copied out, because the library only promises that they begin at multiples of 8 bytes and gives no types.
#define READ(join, record, type, read)                                                                                 \
    do {                                                                                                               \
        struct type copy;                                                                                              \
        memcpy(&copy, record, sizeof copy);                                                                            \
        read(join, &copy);                                                                                             \
    } while (0)

static void read_overhead(struct join *join, const struct cupti_overhead *o)
{
    join->totals.overhead_ns += o->end > o->start ? (int64_t)(o->end - o->start) : 0;
}

void join_record(struct join *join, const void *record)
{
    uint32_t kind;
    memcpy(&kind, record, sizeof kind);
    switch (kind) {
    case CUPTI_KERNEL: READ(join, record, cupti_kernel, read_kernel); break;
    case CUPTI_MEMCPY: READ(join, record, cupti_memcpy, read_memcpy); break;
    case CUPTI_MEMSET: READ(join, record, cupti_memset, read_memset); break;
    case CUPTI_GRAPH: READ(join, record, cupti_graph, read_graph); break;
    case CUPTI_RUNTIME:
    case CUPTI_DRIVER: READ(join, record, cupti_call, read_call); break;
    case CUPTI_EXTERNAL: READ(join, record, cupti_external, read_external); break;
    case CUPTI_OVERHEAD: READ(join, record, cupti_overhead, read_overhead); break;
    default: break;    // kinds that were not asked for
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Joining

static bool tag_of(const struct join *join, uint32_t call, uint64_t *tag)
{
    return number_map_get(&join->tags, call, tag) || number_map_get(&join->old_tags, call, tag);
}

// Whether a call's tag is to be waited for until the next flush.
static bool wait_on(const struct join *join, uint32_t call, int32_t *waited)
{
    bool more = *waited < PATIENCE;
    *waited += (int32_t)(join->newest_call - call) > 0 ? PASSED_BY : WAITED;
    return more;
}

// A call of the runtime calls the driver, and both have records under one number: the runtime's is told.
static void resolve_launches(struct join *join, const struct join_consumer *consumer, bool last)
{
    int64_t kept = 0;
    uint64_t tag, found;
    number_map_clear(&join->of_runtime);
    for (int64_t i = 0; i < join->n_launches; i++) {
        if (!join->launches[i].driver && number_map_put(&join->of_runtime, join->launches[i].sample.launch, 1)) {
            join->totals.dropped++;
        }
    }
    for (int64_t i = 0; i < join->n_launches; i++) {
        struct pending_launch *launch = &join->launches[i];
        if (launch->driver && number_map_get(&join->of_runtime, launch->sample.launch, &found)) {
            continue;
        }
        tag = 0;
        if (tag_of(join, launch->sample.launch, &tag) || last ||
            !wait_on(join, launch->sample.launch, &launch->waited)) {
            consumer->launch(consumer->user, tag, &launch->sample);
        } else {
            join->launches[kept++] = *launch;
        }
    }
    join->n_launches = kept;
}

// Works behind one that waits do so too, lest a step be taken for complete whose work is still to come.
void join_resolve(struct join *join, const struct join_consumer *consumer, bool last)
{
    int64_t kept = 0;
    resolve_launches(join, consumer, last);
    for (int64_t i = 0; i < join->n_works; i++) {
        struct pending_work *work = &join->works[i];
        struct joined_work joined = {.ordinal = -1, .sample = work->sample};
        bool waits = !tag_of(join, work->call, &joined.tag) && !last && wait_on(join, work->call, &work->waited);
        if (!waits && kept == 0) {
            joined.ordinal = work->node ? ordinal_of(join, work->node, joined.tag) : -1;
            consumer->work(consumer->user, &joined);
        } else {
            join->works[kept++] = *work;
        }
    }
    join->n_works = kept;
}

// Calls go in two generations, so that none is looked at by itself.
void join_forget(struct join *join, uint64_t done)
{
    if (join->newest_old_tag < done && join->tags.n > 0) {
        struct number_map emptied = join->old_tags;
        number_map_clear(&emptied);
        join->old_tags = join->tags;
        join->newest_old_tag = join->newest_tag;
        join->tags = emptied;
        join->newest_tag = 0;
    }
    pthread_mutex_lock(&join->mutex);
    if (join->n_changes > 0 && join->changes[join->n_changes - 1].since < done) {
        number_map_clear(&join->changed);
        join->n_changes = 0;
    }
    pthread_mutex_unlock(&join->mutex);
}
