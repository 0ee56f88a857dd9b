// traces/trace_check.c - does a trace keep the rules that Perfetto holds it to, and do its steps add up.
//
// Two passes. The first sees packets: sequences, clocks, names, tracks, nesting, flows; whatever breaks these is
// dropped or drawn wrongly by ui.perfetto.dev without a word. The second sees samples, through the reader: stages
// inside their steps, phases that agree, two clocks that do, layers that exist, requests that stay finished, launches
// and their work. What it does not know is Perfetto's own import; traces of other producers are held to the first pass
// only.
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "traces/durations.h"
#include "traces/step_stages.h"
#include "traces/trace_internal.h"

enum { MAX_REPORTS = 100 };    // of one file; the rest is only counted

// How far a device's own time of steps may be from their stages', in the median of so many steps or more: single ones
// may wait for a kernel's code to be loaded, or for another process, between their first event and their first kernel.
// Of short steps some microseconds: an event's time has a resolution of half of one.
static const double max_clocks_off = 0.02;
enum { MIN_OFF_NS = 5000, MIN_CLOCKED_STEPS = 10 };

struct checked_track {
    bool counter;
    int64_t last_ns;           // of the last begin or end
    int64_t *open_ns;          // [n_open] begins of open slices, owned
    int32_t n_open, capacity;
};

struct checker {
    void (*report)(void *user, const char *finding);
    void *user;
    int findings;
    int error;                       // -ENOMEM: the answer would not be the whole truth
    int64_t offset;                  // of the packet at hand
    struct id_map clocks;            // ids that a snapshot has named
    struct id_map track_index;       // uuid -> index
    struct checked_track *tracks;    // [n_tracks], owned
    int64_t n_tracks, track_capacity;
    struct id_map flows;             // id -> bits of enum flow
    // Second pass.
    struct stage_sample *pending;    // [n_pending] stages whose step has not come, owned
    int64_t n_pending, pending_capacity, orphans;
    // Steps by two clocks, per source and phase, owned. off: how much longer their stages are.
    struct device_clock { int32_t source; enum phase phase; struct durations events, off; } *clocked;
    int64_t n_clocked, clocked_capacity;
    struct id_map layers;            // source id -> its number of layers
    struct id_map finished;          // track of (source, request), mixed into one number -> 1
    struct id_map launches;          // source and launch -> bits of enum launch
    bool lost;                       // records, as the trace says
};

// A flow leads from its first event through others, or to one that ends it. A request may still wait for its second.
enum flow { FLOW_LEAVES = 1, FLOW_GOES_ON = 2, FLOW_ENDS = 4, FLOW_OF_REQUEST = 8 };
enum launch { LAUNCH_TOLD = 1, LAUNCH_WORKED = 2 };

__attribute__((format(printf, 2, 3))) static void find(struct checker *checker, const char *format, ...)
{
    if (checker->findings++ < MAX_REPORTS && checker->report) {
        char text[512];
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
        checker->report(checker->user, text);
    }
}

static long long here(const struct checker *checker)
{
    return (long long)checker->offset;
}

static void note(struct checker *checker, struct id_map *map, uint64_t key, int64_t value)
{
    int error = id_map_set(map, key, value);
    checker->error = checker->error ? checker->error : error;
}

static struct checked_track *find_track(struct checker *checker, uint64_t uuid)
{
    int64_t index = id_map_get(&checker->track_index, uuid);
    return index < 0 ? NULL : &checker->tracks[index];
}

static void check_sequence(struct checker *checker, const struct trace_packet *packet)
{
    const Perfetto__Protos__TracePacket *content = packet->packet;
    const struct trace_sequence *sequence = packet->sequence;
    bool event = content->data_case == PERFETTO__PROTOS__TRACE_PACKET__DATA_TRACK_EVENT;
    if (!sequence) {
        if (event || content->interned_data || content->trace_packet_defaults) {
            find(checker, "byte %lld: an event or names without a packet sequence", here(checker));
        }
        return;
    }
    if (sequence->packets == 1 && !content->first_packet_on_sequence) {
        find(checker, "byte %lld: sequence %u begins without first_packet_on_sequence", here(checker), sequence->id);
    }
    bool needs = content->sequence_flags & PERFETTO__PROTOS__TRACE_PACKET__SEQUENCE_FLAGS__SEQ_NEEDS_INCREMENTAL_STATE;
    if (needs && !sequence->cleared) {
        find(checker, "byte %lld: sequence %u needs names that nothing has begun", here(checker), sequence->id);
    }
}

static void check_clock(struct checker *checker, const struct trace_packet *packet)
{
    const Perfetto__Protos__TracePacket *content = packet->packet;
    if (content->data_case == PERFETTO__PROTOS__TRACE_PACKET__DATA_CLOCK_SNAPSHOT) {
        const Perfetto__Protos__ClockSnapshot *snapshot = content->clock_snapshot;
        for (size_t i = 0; i < snapshot->n_clocks; i++) {
            note(checker, &checker->clocks, snapshot->clocks[i]->clock_id, 1);
        }
    }
    if (!content->has_timestamp) {
        if (content->data_case == PERFETTO__PROTOS__TRACE_PACKET__DATA_TRACK_EVENT) {
            find(checker, "byte %lld: an event without a time", here(checker));
        }
        return;
    }
    uint32_t clock = content->has_timestamp_clock_id ? content->timestamp_clock_id
                   : packet->sequence && packet->sequence->default_clock ? packet->sequence->default_clock
                                                                         : TRACE_CLOCK_BOOTTIME;
    if (id_map_get(&checker->clocks, clock) < 0) {
        find(checker, "byte %lld: a time on clock %u, of which no snapshot was taken before", here(checker), clock);
    }
}

static void add_track(struct checker *checker, const Perfetto__Protos__TrackDescriptor *descriptor)
{
    if (descriptor->uuid == 0) {
        return;    // the root, which always exists
    }
    if (descriptor->parent_uuid && !find_track(checker, descriptor->parent_uuid)) {
        find(checker, "byte %lld: track %llu stands under track %llu, which was not described before", here(checker),
             (unsigned long long)descriptor->uuid, (unsigned long long)descriptor->parent_uuid);
    }
    struct checked_track *track = find_track(checker, descriptor->uuid);
    if (!track) {
        if (checker->n_tracks == checker->track_capacity) {
            int64_t capacity = checker->track_capacity ? 2 * checker->track_capacity : 64;
            struct checked_track *grown = realloc(checker->tracks, (size_t)capacity * sizeof *grown);
            if (!grown) {
                checker->error = status_fail(-ENOMEM, "out of memory for %lld tracks", (long long)capacity);
                return;
            }
            checker->tracks = grown;
            checker->track_capacity = capacity;
        }
        track = &checker->tracks[checker->n_tracks];
        *track = (struct checked_track){.last_ns = INT64_MIN};
        note(checker, &checker->track_index, descriptor->uuid, checker->n_tracks++);
    }
    track->counter = descriptor->counter != NULL;
}

static void begin_slice(struct checker *checker, struct checked_track *track, int64_t time_ns)
{
    if (track->n_open == track->capacity) {
        int32_t capacity = track->capacity ? 2 * track->capacity : 2;
        int64_t *grown = realloc(track->open_ns, (size_t)capacity * sizeof *grown);
        if (!grown) {
            checker->error = status_fail(-ENOMEM, "out of memory for open slices");
            return;
        }
        track->open_ns = grown;
        track->capacity = capacity;
    }
    track->open_ns[track->n_open++] = time_ns;
}

static void check_slice(struct checker *checker, struct checked_track *track, const struct trace_event *event)
{
    bool begins = event->type == PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_BEGIN;
    bool negative = !begins && track->n_open > 0 && event->time_ns < track->open_ns[track->n_open - 1];
    if (negative) {
        find(checker, "byte %lld: a slice ends %lld ns before it began", here(checker),
             (long long)track->open_ns[track->n_open - 1] - (long long)event->time_ns);
    } else if (event->time_ns < track->last_ns) {
        find(checker, "byte %lld: a slice %s at %lld ns, but its track was already at %lld ns", here(checker),
             begins ? "begins" : "ends", (long long)event->time_ns, (long long)track->last_ns);
    }
    track->last_ns = event->time_ns > track->last_ns ? event->time_ns : track->last_ns;
    if (begins) {
        begin_slice(checker, track, event->time_ns);
    } else if (track->n_open > 0) {
        track->n_open--;
    } else {
        find(checker, "byte %lld: a slice ends that never began", here(checker));
    }
}

static void check_flows(struct checker *checker, const Perfetto__Protos__TrackEvent *event, const char *category)
{
    int64_t request = strcmp(category, trace_category_name(CATEGORY_REQUEST)) == 0 ? FLOW_OF_REQUEST : 0;
    for (size_t i = 0; i < event->n_flow_ids; i++) {
        int64_t seen = id_map_get(&checker->flows, event->flow_ids[i]);
        note(checker, &checker->flows, event->flow_ids[i],
             seen < 0 ? FLOW_LEAVES | request : seen & FLOW_LEAVES ? seen | FLOW_GOES_ON : seen | FLOW_LEAVES);
    }
    for (size_t i = 0; i < event->n_terminating_flow_ids; i++) {
        int64_t seen = id_map_get(&checker->flows, event->terminating_flow_ids[i]);
        note(checker, &checker->flows, event->terminating_flow_ids[i], (seen < 0 ? 0 : seen) | FLOW_ENDS);
    }
}

static bool has_both_ends(int64_t flow)
{
    return flow & FLOW_LEAVES && flow & (FLOW_GOES_ON | FLOW_ENDS | FLOW_OF_REQUEST);
}

static void check_name(struct checker *checker, const struct trace_packet *packet, enum trace_intern kind, uint64_t iid,
                       const char *what)
{
    if (!trace_interned(packet->sequence, kind, iid)) {
        find(checker, "byte %lld: device work on a %s that was not interned", here(checker), what);
    }
}

// What Perfetto drops without a word: work on a queue that it does not know.
static void check_work(struct checker *checker, const struct trace_packet *packet)
{
    const Perfetto__Protos__GpuRenderStageEvent *event = packet->packet->gpu_render_stage_event;
    if (!packet->packet->has_timestamp || !event->has_event_id) {
        find(checker, "byte %lld: device work without %s", here(checker), event->has_event_id ? "a time" : "a number");
    }
    check_name(checker, packet, INTERN_SPECIFICATION, event->hw_queue_iid, "queue");
    check_name(checker, packet, INTERN_SPECIFICATION, event->stage_iid, "stage");
    check_name(checker, packet, INTERN_CONTEXT, event->context, "context");
    if (event->has_kernel_iid) {
        check_name(checker, packet, INTERN_KERNEL, event->kernel_iid, "kernel");
    }
}

static void check_gauges(struct checker *checker, const struct trace_packet *packet)
{
    const Perfetto__Protos__GpuCounterEvent *event = packet->packet->gpu_counter_event;
    if (event->n_counters > 0 && !packet->packet->has_timestamp) {
        find(checker, "byte %lld: a hardware counter's value without a time", here(checker));
    }
    if (event->desc_case == PERFETTO__PROTOS__GPU_COUNTER_EVENT__DESC_COUNTER_DESCRIPTOR_IID &&
        !trace_interned(packet->sequence, INTERN_GAUGE, event->counter_descriptor_iid)) {
        find(checker, "byte %lld: a hardware counter that was not interned", here(checker));
    }
}

static void check_event(struct checker *checker, const struct trace_packet *packet)
{
    const Perfetto__Protos__TrackEvent *content = packet->packet->track_event;
    struct trace_event event;
    trace_event_resolve(&event, packet);
    if (event.unresolved) {
        find(checker, "byte %lld: %lld names by numbers that its sequence has not interned", here(checker),
             (long long)event.unresolved);
    }
    if (event.time_ns < 0) {
        find(checker, "byte %lld: a time beyond the clock's range", here(checker));
        return;
    }
    check_flows(checker, content, event.category);
    struct checked_track *track = find_track(checker, event.track);
    if (!track) {
        if (event.track) {    // without one, Perfetto takes the sequence's own track
            find(checker, "byte %lld: an event on track %llu, which was not described before", here(checker),
                 (unsigned long long)event.track);
        }
        return;
    }
    bool counts = event.type == PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_COUNTER;
    if (counts != track->counter) {
        find(checker, "byte %lld: %s", here(checker), counts ? "a counter's value on a track that is no counter"
                                                             : "a slice or an instant on a counter's track");
    } else if (counts && !content->counter_value_field_case) {
        find(checker, "byte %lld: a counter's event without a value", here(checker));
    } else if (event.type == PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_BEGIN ||
               event.type == PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_END) {
        check_slice(checker, track, &event);
    }
}

static int on_packet(void *user, const struct trace_packet *packet)
{
    struct checker *checker = user;
    checker->offset = packet->offset;
    if (!packet->packet) {
        return 0;
    }
    check_sequence(checker, packet);
    check_clock(checker, packet);
    if (packet->packet->data_case == PERFETTO__PROTOS__TRACE_PACKET__DATA_TRACK_DESCRIPTOR) {
        add_track(checker, packet->packet->track_descriptor);
    } else if (packet->packet->data_case == PERFETTO__PROTOS__TRACE_PACKET__DATA_TRACK_EVENT) {
        check_event(checker, packet);
    } else if (packet->packet->data_case == PERFETTO__PROTOS__TRACE_PACKET__DATA_GPU_RENDER_STAGE_EVENT) {
        check_work(checker, packet);
    } else if (packet->packet->data_case == PERFETTO__PROTOS__TRACE_PACKET__DATA_GPU_COUNTER_EVENT) {
        check_gauges(checker, packet);
    }
    return checker->error;
}

static void check_ends(struct checker *checker)
{
    int64_t open = 0, one_ended = 0;
    for (int64_t i = 0; i < checker->n_tracks; i++) {
        open += checker->tracks[i].n_open;
    }
    for (int64_t i = 0; i < checker->flows.capacity; i++) {
        one_ended += checker->flows.values[i] > 0 && !has_both_ends(checker->flows.values[i]);
    }
    if (open > 0) {
        find(checker, "%lld slices have no end: the recording was cut, or not closed", (long long)open);
    }
    if (one_ended > 0) {
        find(checker, "%lld flows have one end only", (long long)one_ended);
    }
}

static void on_source(void *user, const struct sample_source *source)
{
    struct checker *checker = user;
    note(checker, &checker->layers, (uint32_t)source->id, source->n_layers < 0 ? 0 : source->n_layers);
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct checker *checker = user;
    if (checker->n_pending > 0 &&
        (checker->pending[0].source != sample->source || checker->pending[0].step != sample->step)) {
        checker->orphans += checker->n_pending;
        checker->n_pending = 0;
    }
    if (checker->n_pending == checker->pending_capacity) {
        int64_t capacity = checker->pending_capacity ? 2 * checker->pending_capacity : 256;
        struct stage_sample *grown = realloc(checker->pending, (size_t)capacity * sizeof *grown);
        if (!grown) {
            checker->error = status_fail(-ENOMEM, "out of memory for %lld stages", (long long)capacity);
            return;
        }
        checker->pending = grown;
        checker->pending_capacity = capacity;
    }
    checker->pending[checker->n_pending++] = *sample;
    if (sample->layer < -1 || sample->layer >= id_map_get(&checker->layers, (uint32_t)sample->source)) {
        find(checker, "step %lld: %s in layer %d, which its source does not have", (long long)sample->step,
             stage_name(sample->stage), sample->layer);
    }
    if (sample->bytes < 0 || sample->flops < 0 || sample->n_seqs < 0 || sample->n_tokens < 0 ||
        sample->context_tokens < 0) {
        find(checker, "step %lld: %s with a size below 0", (long long)sample->step, stage_name(sample->stage));
    }
}

// Keeps what both clocks say of a step, by its source and phase.
static void add_clocked(struct checker *checker, const struct step_sample *step, int64_t stages_ns)
{
    struct device_clock *clock = NULL;
    for (int64_t i = checker->n_clocked - 1; i >= 0 && !clock; i--) {
        struct device_clock *known = &checker->clocked[i];
        clock = known->source == step->source && known->phase == step->phase ? known : NULL;
    }
    if (!clock) {
        if (checker->n_clocked == checker->clocked_capacity) {
            int64_t capacity = checker->clocked_capacity ? 2 * checker->clocked_capacity : 8;
            struct device_clock *grown = realloc(checker->clocked, (size_t)capacity * sizeof *grown);
            if (!grown) {
                checker->error = status_fail(-ENOMEM, "out of memory for %lld sources", (long long)capacity);
                return;
            }
            checker->clocked = grown;
            checker->clocked_capacity = capacity;
        }
        clock = &checker->clocked[checker->n_clocked++];
        *clock = (struct device_clock){.source = step->source, .phase = step->phase};
    }
    if (durations_add(&clock->events, step->device_ns) || durations_add(&clock->off, stages_ns - step->device_ns)) {
        checker->error = status_fail(-ENOMEM, "out of memory for steps");
    }
}

// With every stage inside its step, stages + gaps - overlap is the step's duration by definition; outside, it is not.
static void on_step(void *user, const struct step_sample *step)
{
    struct checker *checker = user;
    int64_t n = checker->n_pending, end_ns = step->begin_ns + step->duration_ns;
    checker->n_pending = 0;
    if (n > 0 && (checker->pending[0].source != step->source || checker->pending[0].step != step->step)) {
        checker->orphans += n;
        n = 0;
    }
    for (int64_t i = 0; i < n; i++) {
        const struct stage_sample *stage = &checker->pending[i];
        if (stage->begin_ns < step->begin_ns || stage->begin_ns + stage->duration_ns > end_ns) {
            find(checker, "step %lld: %s in layer %d runs outside its step: the step does not add up",
                 (long long)step->step, stage_name(stage->stage), stage->layer);
        }
        if (stage->phase != step->phase) {
            find(checker, "step %lld is %s, but its stage %s is %s", (long long)step->step, phase_name(step->phase),
                 stage_name(stage->stage), phase_name(stage->phase));
        }
    }
    if (n > 0 && step->device_ns > 0) {
        add_clocked(checker, step, step_stages_device_ns(checker->pending, n));
    }
}

static void check_clocked(struct checker *checker)
{
    for (int64_t i = 0; i < checker->n_clocked && !checker->lost; i++) {
        struct device_clock *clock = &checker->clocked[i];
        int64_t events_ns, off_ns, p95_ns;
        if (clock->off.n < MIN_CLOCKED_STEPS) {
            continue;
        }
        durations_quantiles(&clock->events, &events_ns, &p95_ns);
        durations_quantiles(&clock->off, &off_ns, &p95_ns);
        double share = (double)off_ns / (double)events_ns;
        if (fabs(share) > max_clocks_off && llabs(off_ns) > MIN_OFF_NS) {
            find(checker,
                 "source %d: %s steps take %.3f ms by the device's events, and stages + gaps - overlap are %+.1f%% off "
                 "(medians of %lld)",
                 clock->source, phase_name(clock->phase), 1e-6 * (double)events_ns, 100 * share,
                 (long long)clock->off.n);
        }
    }
}

static void on_request(void *user, const struct request_sample *sample)
{
    struct checker *checker = user;
    uint64_t key = (uint64_t)sample->request * 0x9e3779b97f4a7c15u ^ (uint32_t)sample->source;
    if (id_map_get(&checker->finished, key) >= 0) {
        find(checker, "request %lld goes on after it finished", (long long)sample->request);
    }
    if (sample->state == REQUEST_FINISHED) {
        note(checker, &checker->finished, key, 1);
    }
}

static uint64_t launch_key(int32_t source, uint32_t launch)
{
    return (uint64_t)(uint32_t)source << 32 | launch;
}

static void note_launch(struct checker *checker, int32_t source, uint32_t launch, enum launch bit)
{
    int64_t seen = id_map_get(&checker->launches, launch_key(source, launch));
    note(checker, &checker->launches, launch_key(source, launch), (seen < 0 ? 0 : seen) | (int64_t)bit);
}

static void on_kernel(void *user, const struct kernel_sample *sample)
{
    struct checker *checker = user;
    if (sample->launch) {
        note_launch(checker, sample->source, sample->launch, LAUNCH_WORKED);
    }
    if (sample->layer < -1 || sample->layer >= id_map_get(&checker->layers, (uint32_t)sample->source)) {
        find(checker, "step %lld: %s in layer %d, which its source does not have", (long long)sample->step,
             sample->name[0] ? sample->name : trace_work_name(sample->work), sample->layer);
    }
    if (sample->bytes < 0) {
        find(checker, "step %lld: a %s of less than 0 bytes", (long long)sample->step, trace_work_name(sample->work));
    }
}

static void on_launch(void *user, const struct launch_sample *sample)
{
    note_launch(user, sample->source, sample->launch, LAUNCH_TOLD);
}

static void on_loss(void *user, const struct loss_sample *sample)
{
    struct checker *checker = user;
    if (sample->dropped < 0 || sample->invalid < 0) {
        find(checker, "less than 0 records lost");
    }
    checker->lost = true;
}

// Where records were lost, some of these ends are missing anyway.
static void check_launches(struct checker *checker)
{
    int64_t idle = 0, orphans = 0;
    for (int64_t i = 0; i < checker->launches.capacity && !checker->lost; i++) {
        idle += checker->launches.values[i] == LAUNCH_TOLD;
        orphans += checker->launches.values[i] == LAUNCH_WORKED;
    }
    if (idle > 0) {
        find(checker, "%lld launches have no work on a device", (long long)idle);
    }
    if (orphans > 0) {
        find(checker, "device work points at %lld launches that are not there", (long long)orphans);
    }
}

static int read_packets(struct checker *checker, FILE *stream, int64_t size, const char *name)
{
    struct trace_decoding decoding = {
        .name = name, .stream = stream, .size = size, .packet = on_packet, .user = checker,
    };
    int error = trace_decode(&decoding);
    if (decoding.truncated) {
        find(checker, "byte %lld: the file ends in the middle of a packet", (long long)decoding.offset);
        return 0;
    }
    if (!error) {
        check_ends(checker);    // of a file that was cut, some ends are missing anyway
    }
    return error;
}

static int read_samples(struct checker *checker, FILE *stream, int64_t size, const char *name)
{
    struct sample_sink sink = {
        .user = checker, .source = on_source, .stage = on_stage, .step = on_step, .request = on_request,
        .kernel = on_kernel, .launch = on_launch, .loss = on_loss,
    };
    struct trace_stats stats;
    int error = trace_read_stream(stream, size, name, &sink, &stats);
    if (error && !stats.truncated) {
        find(checker, "%s", status_text());    // packets that are well formed, samples that are not
        error = error == -EINVAL ? 0 : error;
    } else {
        error = 0;
    }
    if (!stats.truncated) {
        check_launches(checker);
        check_clocked(checker);
    }
    checker->orphans += checker->n_pending;
    if (checker->orphans > 0 && !stats.truncated) {
        find(checker, "%lld stages have no step", (long long)checker->orphans);
    }
    return error ? error : checker->error;
}

int trace_check_stream(FILE *stream, int64_t size, const char *name, void (*report)(void *user, const char *finding),
                       void *user)
{
    struct checker checker = {.report = report, .user = user};
    off_t begin = ftello(stream);
    int error = read_packets(&checker, stream, size, name);
    if (!error && fseeko(stream, begin, SEEK_SET) != 0) {
        error = status_fail(-errno, "%s: cannot read twice: %s", name, strerror(errno));
    }
    error = error ? error : read_samples(&checker, stream, size, name);
    for (int64_t i = 0; i < checker.n_tracks; i++) {
        free(checker.tracks[i].open_ns);
    }
    free(checker.tracks);
    free(checker.pending);
    for (int64_t i = 0; i < checker.n_clocked; i++) {
        durations_free(&checker.clocked[i].events);
        durations_free(&checker.clocked[i].off);
    }
    free(checker.clocked);
    id_map_free(&checker.clocks);
    id_map_free(&checker.track_index);
    id_map_free(&checker.flows);
    id_map_free(&checker.layers);
    id_map_free(&checker.finished);
    id_map_free(&checker.launches);
    return error ? error : checker.findings;
}

int trace_check(const char *path, void (*report)(void *user, const char *finding), void *user)
{
    FILE *stream;
    int64_t size;
    int error = trace_open_file(&stream, &size, path);
    if (error) {
        return error;
    }
    int found = trace_check_stream(stream, size, path, report, user);
    fclose(stream);
    return found;
}
