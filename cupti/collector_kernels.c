// cupti/collector_kernels.c - steps and kernels meet.
//
// A tag is the step's serial and the ordinal of the stage within its pass. A replayed step launches one graph, whose
// tag has no ordinal; its nodes bring theirs. The engine's thread puts ended steps into a list. A step is complete when
// a later one's work has been seen, since records come in order, or when a flush left nothing behind. Copies that a
// step enqueues outside of stages are the host's: the batch, and what the step gave.
//
// Time of a stage is exclusive. Where a kernel starts before its predecessor on the same stream has ended, it waits for
// it (its launch was overlapped on purpose), and the time counts for the predecessor. Stages on different streams may
// overlap.
#include "cupti/collector_kernels.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cupti/collector.h"
#include "cupti/cupti_activity.h"
#include "cupti/grow.h"
#include "engine/status.h"

enum { ORDINAL_BITS = 20 };    // a million stages in a pass: prefill of long prompts scores in many tiles
enum { MAX_STREAMS = 64 };     // whose overlap is looked at; the engine uses a few
enum { MAX_WAITING = 4096 };   // steps whose works have not come; older ones go without, lest memory fills

struct step_work {
    uint64_t serial;
    int32_t ordinal;           // -1: of no stage
    struct kernel_sample sample;
};

struct step_launch {
    uint64_t serial;
    struct launch_sample sample;
};

struct kernel_collector {
    struct activity *activity;
    struct sample_sink sink;
    bool graphs_whole;
    // Shared by both threads, under `mutex`.
    pthread_mutex_t mutex;
    struct told *ended, **ended_end;         // steps that the other thread has not seen
    int64_t n_ended;
    struct told *spare;                      // to be used again
    // Whoever calls the sink holds `sink_mutex`; what follows is his.
    pthread_mutex_t sink_mutex;
    int32_t source;                          // -1: none announced
    struct told *ready, **ready_end;         // ended steps, in order
    int64_t n_ready;
    uint64_t newest, settled;                // the highest serial of a work that was seen; until the flush before
    struct step_work *works;                 // [n_works] owned: of steps that were not handed over yet
    int64_t n_works, work_capacity;
    struct step_launch *launches;            // [n_launches] owned
    int64_t n_launches, launch_capacity;
    struct stage_time { int64_t begin_ns, busy_ns; } *times;    // [time_capacity] owned, by ordinal
    int64_t time_capacity;
    struct number_map launched;              // calls that a work of the step being handed over names
    uint64_t handed_over;                    // the last step's serial
    int64_t lost;                            // here: no memory, or later than their step
    struct losses { int64_t dropped, invalid; } so_far, before;    // of all sources; of those before this one
    struct loss_sample told_loss;            // of this source
    int64_t told_overhead_ns;
};

// Serials count up over all collectors of the process: CUPTI's records may come late.
static _Atomic uint64_t last_serial;

static uint64_t tag_of(uint64_t serial, int32_t ordinal)
{
    bool fits = ordinal >= 0 && ordinal < (1 << ORDINAL_BITS) - 1;
    return serial << ORDINAL_BITS | (fits ? (uint64_t)ordinal + 1 : 0);
}

// ---------------------------------------------------------------------------------------------------------------------
// The engine's thread

uint64_t kernel_collector_step_begin(struct kernel_collector *kernels)
{
    uint64_t serial = atomic_fetch_add(&last_serial, 1) + 1;
    activity_step_begin(kernels->activity, tag_of(serial, -1), tag_of(serial + 1, -1));
    return serial;
}

void kernel_collector_step_end(struct kernel_collector *kernels)
{
    activity_step_end(kernels->activity);
}

void kernel_collector_enqueue_begin(struct kernel_collector *kernels, uint64_t serial, int32_t ordinal)
{
    activity_stage_begin(kernels->activity, tag_of(serial, ordinal), ordinal);
}

void kernel_collector_enqueue_end(struct kernel_collector *kernels)
{
    activity_stage_end(kernels->activity);
}

struct told *kernel_collector_submit(struct kernel_collector *kernels, struct told *ended)
{
    pthread_mutex_lock(&kernels->mutex);
    struct told *empty = kernels->spare;
    kernels->spare = empty ? empty->next : NULL;
    pthread_mutex_unlock(&kernels->mutex);
    empty = empty ? empty : told_open();
    if (!empty) {
        return NULL;
    }
    told_reset(empty);
    ended->next = NULL;
    pthread_mutex_lock(&kernels->mutex);
    *kernels->ended_end = ended;
    kernels->ended_end = &ended->next;
    kernels->n_ended++;
    pthread_mutex_unlock(&kernels->mutex);
    return empty;
}

// ---------------------------------------------------------------------------------------------------------------------
// What was found, until its step is handed over

// Moves the steps that have ended to those that wait for their works.
static void take_ended(struct kernel_collector *kernels)
{
    pthread_mutex_lock(&kernels->mutex);
    if (kernels->ended) {
        *kernels->ready_end = kernels->ended;
        kernels->ready_end = kernels->ended_end;
        kernels->ended = NULL;
        kernels->ended_end = &kernels->ended;
    }
    kernels->n_ready += kernels->n_ended;
    kernels->n_ended = 0;
    pthread_mutex_unlock(&kernels->mutex);
}

// What was told without a step goes with the step before it. One step more is waited for, because a work and its call
// may lie in different buffers; and one flush more, because the library may find one buffer still at work, and the
// next, a moment later, done.
static bool complete(const struct kernel_collector *kernels, const struct told *told, bool all)
{
    return all || !told->has_step || told->serial + 1 < kernels->settled || kernels->n_ready > MAX_WAITING;
}

// Work outside of steps: weights on their way, memory that is cleared. What precedes the first source is not told.
static void hand_over_outside(struct kernel_collector *kernels, const struct kernel_sample *sample)
{
    struct kernel_sample outside = *sample;
    outside.step = -1;
    outside.stage = STAGE_COUNT;
    outside.layer = -1;
    pthread_mutex_lock(&kernels->sink_mutex);
    outside.source = kernels->source;
    if (kernels->source >= 0 && kernels->sink.kernel) {
        kernels->sink.kernel(kernels->sink.user, &outside);
    }
    pthread_mutex_unlock(&kernels->sink_mutex);
}

static void on_work(void *user, const struct joined_work *work)
{
    struct kernel_collector *kernels = user;
    uint64_t serial = work->tag >> ORDINAL_BITS;
    int32_t ordinal = (int32_t)(work->tag & ((1 << ORDINAL_BITS) - 1)) - 1;
    if (serial == 0) {
        hand_over_outside(kernels, &work->sample);
        return;
    }
    void *room = grow_for_one(kernels->works, kernels->n_works, &kernels->work_capacity, sizeof *kernels->works);
    if (!room) {
        kernels->lost++;
        return;
    }
    kernels->works = room;
    kernels->newest = serial > kernels->newest ? serial : kernels->newest;
    kernels->works[kernels->n_works++] =
        (struct step_work){serial, work->ordinal >= 0 ? work->ordinal : ordinal, work->sample};
}

static void on_launch(void *user, uint64_t tag, const struct launch_sample *launch)
{
    struct kernel_collector *kernels = user;
    void *room =
        grow_for_one(kernels->launches, kernels->n_launches, &kernels->launch_capacity, sizeof *kernels->launches);
    if (!room) {
        kernels->lost++;
        return;
    }
    kernels->launches = room;
    kernels->launches[kernels->n_launches++] = (struct step_launch){tag >> ORDINAL_BITS, *launch};
}

static int compare(uint64_t a_serial, int64_t a_ns, uint64_t b_serial, int64_t b_ns)
{
    return a_serial != b_serial ? (a_serial > b_serial) - (a_serial < b_serial) : (a_ns > b_ns) - (a_ns < b_ns);
}

static int compare_works(const void *left, const void *right)
{
    const struct step_work *a = left, *b = right;
    return compare(a->serial, a->sample.begin_ns, b->serial, b->sample.begin_ns);
}

static int compare_launches(const void *left, const void *right)
{
    const struct step_launch *a = left, *b = right;
    return compare(a->serial, a->sample.begin_ns, b->serial, b->sample.begin_ns);
}

// ---------------------------------------------------------------------------------------------------------------------
// One step

// Until when each stream was busy with the works looked at so far.
struct stream_ends {
    struct { int32_t device, context, stream; int64_t end_ns; } streams[MAX_STREAMS];
    int32_t n;
};

// Notes that the work's stream is busy until its end; returns from when on the work had the stream to itself.
static int64_t claim(struct stream_ends *ends, const struct kernel_sample *work)
{
    int64_t end_ns = work->begin_ns + work->duration_ns;
    int32_t s = 0;
    while (s < ends->n && (ends->streams[s].stream != work->stream || ends->streams[s].context != work->context ||
                           ends->streams[s].device != work->device)) {
        s++;
    }
    if (s == MAX_STREAMS) {
        return work->begin_ns;
    }
    if (s == ends->n) {
        ends->n++;
        ends->streams[s].device = work->device;
        ends->streams[s].context = work->context;
        ends->streams[s].stream = work->stream;
        ends->streams[s].end_ns = work->begin_ns;
    }
    int64_t own_ns = ends->streams[s].end_ns > work->begin_ns ? ends->streams[s].end_ns : work->begin_ns;
    ends->streams[s].end_ns = end_ns > ends->streams[s].end_ns ? end_ns : ends->streams[s].end_ns;
    return own_ns;
}

static bool grow_times(struct kernel_collector *kernels, int64_t n)
{
    if (n > kernels->time_capacity) {
        struct stage_time *grown = realloc(kernels->times, (size_t)n * sizeof *grown);
        if (!grown) {
            return false;
        }
        kernels->times = grown;
        kernels->time_capacity = n;
    }
    memset(kernels->times, 0, (size_t)n * sizeof *kernels->times);
    return true;
}

// A stage's sample for each that had the device to itself at some time; works [n] are sorted by their beginnings. A
// stage whose work was done by another's kernels has none.
static void hand_over_stages(struct kernel_collector *kernels, const struct told *told, const struct step_work *works,
                             int64_t n)
{
    struct stream_ends ends = {.n = 0};
    if (!kernels->sink.stage || told->n_enqueued == 0) {
        return;
    }
    if (!grow_times(kernels, told->n_enqueued)) {
        kernels->lost += told->n_enqueued;
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t own_ns = claim(&ends, &works[i].sample);
        int64_t busy_ns = works[i].sample.begin_ns + works[i].sample.duration_ns - own_ns;
        if (works[i].ordinal >= 0 && works[i].ordinal < told->n_enqueued && busy_ns > 0) {
            struct stage_time *time = &kernels->times[works[i].ordinal];
            time->begin_ns = time->busy_ns == 0 || own_ns < time->begin_ns ? own_ns : time->begin_ns;
            time->busy_ns += busy_ns;
        }
    }
    for (int64_t s = 0; s < told->n_enqueued; s++) {
        if (kernels->times[s].busy_ns > 0) {
            struct stage_sample sample =
                told_stage(told, &told->enqueued[s], kernels->times[s].begin_ns, kernels->times[s].busy_ns);
            kernels->sink.stage(kernels->sink.user, &sample);
        }
    }
}

static void hand_over_work(struct kernel_collector *kernels, const struct told *told, struct step_work *work)
{
    struct kernel_sample *sample = &work->sample;
    bool known = work->ordinal >= 0 && work->ordinal < told->n_enqueued;
    sample->source = told->step.source;
    sample->step = told->step.step;
    sample->phase = told->step.phase;
    sample->stage = known                          ? told->enqueued[work->ordinal].stage
                    : sample->work == WORK_KERNEL ? STAGE_COUNT
                                                   : STAGE_HOST;
    sample->layer = known ? told->enqueued[work->ordinal].layer : -1;
    kernels->sink.kernel(kernels->sink.user, sample);
}

// Only calls that enqueued work: those of a pass that was recorded made nodes of a graph.
static void hand_over_launches(struct kernel_collector *kernels, const struct told *told,
                               const struct step_work *works, int64_t n_works, struct step_launch *launches,
                               int64_t n_launches)
{
    uint64_t found;
    number_map_clear(&kernels->launched);
    for (int64_t i = 0; i < n_works; i++) {
        if (number_map_put(&kernels->launched, works[i].sample.launch, 1)) {
            kernels->lost++;
        }
    }
    for (int64_t i = 0; i < n_launches; i++) {
        if (number_map_get(&kernels->launched, launches[i].sample.launch, &found)) {
            launches[i].sample.source = told->step.source;
            launches[i].sample.step = told->step.step;
            kernels->sink.launch(kernels->sink.user, &launches[i].sample);
        }
    }
}

static void hand_over_step(struct kernel_collector *kernels, const struct told *told, struct step_work *works,
                           int64_t n_works, struct step_launch *launches, int64_t n_launches)
{
    const struct sample_sink *sink = &kernels->sink;
    if (!kernels->graphs_whole) {
        hand_over_stages(kernels, told, works, n_works);
    }
    for (int64_t i = 0; i < told->n_records; i++) {
        told_hand_over_record(&told->records[i], sink);
    }
    for (int64_t i = 0; i < n_works && sink->kernel; i++) {
        hand_over_work(kernels, told, &works[i]);
    }
    if (sink->launch) {
        hand_over_launches(kernels, told, works, n_works, launches, n_launches);
    }
    if (told->has_step && sink->step) {
        sink->step(sink->user, &told->step);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// After a flush

static void tell_totals(struct kernel_collector *kernels, const struct join_totals *totals)
{
    const struct sample_sink *sink = &kernels->sink;
    kernels->so_far = (struct losses){totals->dropped + kernels->lost, totals->invalid};
    struct loss_sample loss = {.source = kernels->source,
                               .dropped = kernels->so_far.dropped - kernels->before.dropped,
                               .invalid = kernels->so_far.invalid - kernels->before.invalid,
                               .time_ns = collector_now_ns()};
    if (kernels->source < 0) {
        return;
    }
    if (sink->loss && (loss.dropped != kernels->told_loss.dropped || loss.invalid != kernels->told_loss.invalid)) {
        kernels->told_loss = loss;
        sink->loss(sink->user, &loss);
    }
    if (sink->gauge && totals->overhead_ns != kernels->told_overhead_ns) {
        struct gauge_sample gauge = {.source = kernels->source, .name = "CUPTI overhead", .unit = "us",
                                     .value = (double)(totals->overhead_ns - kernels->told_overhead_ns) * 1e-3,
                                     .time_ns = loss.time_ns};
        kernels->told_overhead_ns = totals->overhead_ns;
        sink->gauge(sink->user, &gauge);
    }
}

static void recycle(struct kernel_collector *kernels, struct told *told)
{
    pthread_mutex_lock(&kernels->mutex);
    told->next = kernels->spare;
    kernels->spare = told;
    pthread_mutex_unlock(&kernels->mutex);
}

// Works and launches are sorted by serial, so those of one step lie side by side. Ones that came later than their step
// are lost; those of steps to come stay.
static uint64_t on_flushed(void *user, const struct join_totals *totals, bool all)
{
    struct kernel_collector *kernels = user;
    int64_t w = 0, l = 0;
    take_ended(kernels);
    pthread_mutex_lock(&kernels->sink_mutex);
    qsort(kernels->works, (size_t)kernels->n_works, sizeof *kernels->works, compare_works);
    qsort(kernels->launches, (size_t)kernels->n_launches, sizeof *kernels->launches, compare_launches);
    while (kernels->ready && complete(kernels, kernels->ready, all)) {
        struct told *told = kernels->ready;
        kernels->ready = told->next;
        kernels->ready_end = kernels->ready ? kernels->ready_end : &kernels->ready;
        kernels->n_ready--;
        int64_t first_work = w, first_launch = l;
        kernels->lost += told->lost;
        if (told->has_step) {
            for (; w < kernels->n_works && kernels->works[w].serial < told->serial; w++) {
                kernels->lost++;
            }
            for (; l < kernels->n_launches && kernels->launches[l].serial < told->serial; l++) {
            }
            for (first_work = w; w < kernels->n_works && kernels->works[w].serial == told->serial; w++) {
            }
            for (first_launch = l; l < kernels->n_launches && kernels->launches[l].serial == told->serial; l++) {
            }
            kernels->handed_over = told->serial;
        }
        hand_over_step(kernels, told, kernels->works + first_work, w - first_work, kernels->launches + first_launch,
                       l - first_launch);
        recycle(kernels, told);
    }
    kernels->n_works -= w;
    kernels->n_launches -= l;
    memmove(kernels->works, kernels->works + w, (size_t)kernels->n_works * sizeof *kernels->works);
    memmove(kernels->launches, kernels->launches + l, (size_t)kernels->n_launches * sizeof *kernels->launches);
    kernels->settled = kernels->newest;
    tell_totals(kernels, totals);
    pthread_mutex_unlock(&kernels->sink_mutex);
    return tag_of(kernels->handed_over + 1, -1);
}

// ---------------------------------------------------------------------------------------------------------------------
// Life

void kernel_collector_source(struct kernel_collector *kernels, const struct sample_source *source)
{
    activity_drain(kernels->activity);
    pthread_mutex_lock(&kernels->sink_mutex);
    if (kernels->source >= 0) {    // what was lost before there was one counts to the first
        kernels->before = kernels->so_far;
    }
    kernels->told_loss = (struct loss_sample){0};
    kernels->source = source->id;
    if (kernels->sink.source) {
        kernels->sink.source(kernels->sink.user, source);
    }
    pthread_mutex_unlock(&kernels->sink_mutex);
}

int kernel_collector_open(struct kernel_collector **out, const struct sample_sink *sink, bool graphs_whole)
{
    struct kernel_collector *kernels = calloc(1, sizeof *kernels);
    *out = NULL;
    if (!kernels) {
        return status_fail(-ENOMEM, "out of memory for a collector");
    }
    kernels->sink = *sink;
    kernels->graphs_whole = graphs_whole;
    kernels->source = -1;
    kernels->ended_end = &kernels->ended;
    kernels->ready_end = &kernels->ready;
    kernels->handed_over = atomic_load(&last_serial);
    pthread_mutex_init(&kernels->mutex, NULL);
    pthread_mutex_init(&kernels->sink_mutex, NULL);
    kernels->works = grow_for_one(NULL, 0, &kernels->work_capacity, sizeof *kernels->works);
    kernels->launches = grow_for_one(NULL, 0, &kernels->launch_capacity, sizeof *kernels->launches);
    struct activity_client client = {kernels, on_work, on_launch, on_flushed};
    int error = kernels->works && kernels->launches ? 0 : status_fail(-ENOMEM, "out of memory for a collector");
    error = error ? error
                  : activity_open(&kernels->activity, &client, graphs_whole ? ACTIVITY_GRAPHS : ACTIVITY_NODES);
    if (error) {
        kernel_collector_close(kernels);
        return error;
    }
    *out = kernels;
    return 0;
}

void kernel_collector_close(struct kernel_collector *kernels)
{
    if (!kernels) {
        return;
    }
    activity_close(kernels->activity);
    while (kernels->spare) {
        struct told *told = kernels->spare;
        kernels->spare = told->next;
        told_close(told);
    }
    free(kernels->works);
    free(kernels->launches);
    free(kernels->times);
    number_map_free(&kernels->launched);
    pthread_mutex_destroy(&kernels->mutex);
    pthread_mutex_destroy(&kernels->sink_mutex);
    free(kernels);
}
