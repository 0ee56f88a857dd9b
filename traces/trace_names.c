// traces/trace_names.c - the interned names of a sequence, and events with their names resolved.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "traces/trace_internal.h"

const struct trace_interned *trace_interned(const struct trace_sequence *sequence, enum trace_intern kind, uint64_t iid)
{
    int64_t index = sequence ? id_map_get(&sequence->names[kind], iid) : -1;
    return index < 0 ? NULL : &sequence->interned[index];
}

void trace_forget_names(struct trace_sequence *sequence)
{
    for (int64_t i = 0; i < sequence->n_interned; i++) {
        free(sequence->interned[i].text);
        free(sequence->interned[i].detail);
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

// A copy of [n] bytes as a text.
static char *copy_text(const char *bytes, size_t n)
{
    char *text = malloc(n + 1);
    if (text) {
        if (n) {
            memcpy(text, bytes, n);
        }
        text[n] = 0;
    }
    return text;
}

static int intern(struct trace_sequence *sequence, enum trace_intern kind, uint64_t iid, const char *name,
                  size_t length)
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
    char *text = copy_text(name, length);
    if (!text) {
        return status_fail(-ENOMEM, "out of memory for a name");
    }
    sequence->interned[sequence->n_interned] = (struct trace_interned){
        .text = text,
        .annotation = kind == INTERN_ANNOTATION || kind == INTERN_ARGUMENT ? annotation_of(text) : -1,
    };
    return id_map_set(&sequence->names[kind], iid, sequence->n_interned++);
}

static int intern_text(struct trace_sequence *sequence, enum trace_intern kind, uint64_t iid, const char *name)
{
    return intern(sequence, kind, iid, name, name ? strlen(name) : 0);
}

// Gives the entry that was interned last a description.
static int add_detail(struct trace_sequence *sequence, const char *text)
{
    char **detail = &sequence->interned[sequence->n_interned - 1].detail;
    *detail = copy_text(text, text ? strlen(text) : 0);
    return *detail ? 0 : status_fail(-ENOMEM, "out of memory for a description");
}

static int intern_words(struct trace_sequence *sequence, const Perfetto__Protos__InternedData *data)
{
    int error = 0;
    for (size_t i = 0; i < data->n_event_categories && !error; i++) {
        error = intern_text(sequence, INTERN_CATEGORY, data->event_categories[i]->iid, data->event_categories[i]->name);
    }
    for (size_t i = 0; i < data->n_event_names && !error; i++) {
        error = intern_text(sequence, INTERN_NAME, data->event_names[i]->iid, data->event_names[i]->name);
    }
    for (size_t i = 0; i < data->n_debug_annotation_names && !error; i++) {
        error = intern_text(sequence, INTERN_ANNOTATION, data->debug_annotation_names[i]->iid,
                            data->debug_annotation_names[i]->name);
    }
    for (size_t i = 0; i < data->n_debug_annotation_string_values && !error; i++) {
        const Perfetto__Protos__InternedString *value = data->debug_annotation_string_values[i];
        error = intern(sequence, INTERN_TEXT, value->iid, (const char *)value->str.data, value->str.len);
    }
    for (size_t i = 0; i < data->n_compute_arg_names && !error; i++) {
        error =
            intern_text(sequence, INTERN_ARGUMENT, data->compute_arg_names[i]->iid, data->compute_arg_names[i]->name);
    }
    return error;
}

int32_t trace_argument(const struct trace_sequence *sequence,
                       const Perfetto__Protos__GpuRenderStageEvent__ExtraComputeArg *argument, int64_t *value)
{
    const struct trace_interned *name = NULL;
    if (argument->name_field_case == PERFETTO__PROTOS__GPU_RENDER_STAGE_EVENT__EXTRA_COMPUTE_ARG__NAME_FIELD_NAME_IID) {
        name = trace_interned(sequence, INTERN_ARGUMENT, argument->name_iid);
    }
    bool number = argument->value_case == PERFETTO__PROTOS__GPU_RENDER_STAGE_EVENT__EXTRA_COMPUTE_ARG__VALUE_INT_VALUE;
    *value = number ? argument->int_value : 0;
    return name && number ? name->annotation : -1;
}

// The arguments of a kernel that fix its place: without its source, device and stream it is not one of ours.
static void resolve_kernel(const struct trace_sequence *sequence, struct trace_interned *out,
                           const Perfetto__Protos__InternedComputeKernel *kernel)
{
    struct {
        enum trace_annotation annotation;
        int32_t *value;
        bool found;
    } wanted[] = {
        {ANNOTATION_SOURCE, &out->source, false},           {ANNOTATION_DEVICE, &out->device, false},
        {ANNOTATION_STREAM, &out->stream, false},           {ANNOTATION_REGISTERS, &out->registers, true},
        {ANNOTATION_STATIC_SHARED, &out->static_shared, true}, {ANNOTATION_DYNAMIC_SHARED, &out->dynamic_shared, true},
    };
    size_t n = sizeof wanted / sizeof *wanted;
    out->ours = true;
    for (size_t i = 0; i < kernel->n_args; i++) {
        int64_t value;
        int32_t annotation = trace_argument(sequence, kernel->args[i], &value);
        for (size_t w = 0; w < n; w++) {
            if (annotation == (int32_t)wanted[w].annotation) {
                wanted[w].found = true;
                *wanted[w].value = (int32_t)value;
                out->ours = out->ours && value >= INT32_MIN && value <= INT32_MAX;
            }
        }
    }
    for (size_t w = 0; w < n; w++) {
        out->ours = out->ours && wanted[w].found;
    }
}

static int intern_device(struct trace_sequence *sequence, const Perfetto__Protos__InternedData *data)
{
    int error = 0;
    for (size_t i = 0; i < data->n_graphics_contexts && !error; i++) {
        error = intern_text(sequence, INTERN_CONTEXT, data->graphics_contexts[i]->iid, NULL);
    }
    for (size_t i = 0; i < data->n_gpu_specifications && !error; i++) {
        const Perfetto__Protos__InternedGpuRenderStageSpecification *entry = data->gpu_specifications[i];
        error = intern_text(sequence, INTERN_SPECIFICATION, entry->iid, entry->name);
        error = error ? error : add_detail(sequence, entry->description);
    }
    for (size_t i = 0; i < data->n_compute_kernels && !error; i++) {
        const Perfetto__Protos__InternedComputeKernel *kernel = data->compute_kernels[i];
        error = intern_text(sequence, INTERN_KERNEL, kernel->iid, kernel->name);
        if (!error) {
            resolve_kernel(sequence, &sequence->interned[sequence->n_interned - 1], kernel);
        }
    }
    for (size_t i = 0; i < data->n_gpu_counter_descriptors && !error; i++) {
        const Perfetto__Protos__InternedGpuCounterDescriptor *entry = data->gpu_counter_descriptors[i];
        const Perfetto__Protos__GpuCounterDescriptor *descriptor = entry->counter_descriptor;
        bool one = descriptor && descriptor->n_specs == 1;    // as ours have; of others the name stays empty
        error = intern_text(sequence, INTERN_GAUGE, entry->iid, one ? descriptor->specs[0]->name : NULL);
        error = error ? error : add_detail(sequence, one ? descriptor->specs[0]->description : NULL);
    }
    return error;
}

int trace_intern_all(struct trace_sequence *sequence, const Perfetto__Protos__InternedData *data)
{
    int error = intern_words(sequence, data);    // first: arguments of kernels are called by them
    return error ? error : intern_device(sequence, data);
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
    case PERFETTO__PROTOS__DEBUG_ANNOTATION__VALUE_UINT_VALUE:
        out->number[which] = (int64_t)annotation->uint_value;
        break;
    case PERFETTO__PROTOS__DEBUG_ANNOTATION__VALUE_BOOL_VALUE: out->number[which] = annotation->bool_value; break;
    case PERFETTO__PROTOS__DEBUG_ANNOTATION__VALUE_STRING_VALUE: out->text[which] = annotation->string_value; break;
    case PERFETTO__PROTOS__DEBUG_ANNOTATION__VALUE_STRING_VALUE_IID: {
        const struct trace_interned *text = trace_interned(sequence, INTERN_TEXT, annotation->string_value_iid);
        out->unresolved += !text;
        out->text[which] = text ? text->text : "";
        break;
    }
    default: return;    // a kind of value that no annotation of ours has
    }
    out->present |= UINT64_C(1) << which;
}

void trace_event_resolve(struct trace_event *out, const struct trace_packet *packet)
{
    _Static_assert(ANNOTATION_COUNT <= 64, "`present` has a bit for each annotation");
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
