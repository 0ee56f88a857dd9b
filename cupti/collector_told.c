// cupti/collector_told.c - lists that grow, and are handed over in order.
#include "cupti/collector_told.h"

#include <stdlib.h>

#include "cupti/grow.h"

struct told *told_open(void)
{
    return calloc(1, sizeof(struct told));
}

void told_close(struct told *told)
{
    if (told) {
        free(told->records);
        free(told->enqueued);
        free(told);
    }
}

void told_reset(struct told *told)
{
    *told = (struct told){.records = told->records,
                          .record_capacity = told->record_capacity,
                          .enqueued = told->enqueued,
                          .enqueued_capacity = told->enqueued_capacity};
}

void told_add(struct told *told, const struct told_record *record)
{
    void *room = grow_for_one(told->records, told->n_records, &told->record_capacity, sizeof *record);
    if (!room) {
        told->lost++;
        return;
    }
    told->records = room;
    told->records[told->n_records++] = *record;
}

int32_t told_add_enqueued(struct told *told, const struct observed_stage *stage)
{
    void *room = grow_for_one(told->enqueued, told->n_enqueued, &told->enqueued_capacity, sizeof *stage);
    if (!room) {
        told->lost++;
        return -1;
    }
    told->enqueued = room;
    told->enqueued[told->n_enqueued] = *stage;
    return (int32_t)told->n_enqueued++;
}

struct stage_sample told_stage(const struct told *told, const struct observed_stage *stage, int64_t begin_ns,
                               int64_t duration_ns)
{
    return (struct stage_sample){
        .source = told->step.source,
        .step = told->step.step,
        .phase = told->step.phase,
        .stage = stage->stage,
        .layer = stage->layer,
        .n_seqs = stage->n_seqs,
        .n_tokens = stage->n_tokens,
        .context_tokens = stage->context_tokens,
        .bytes = stage->bytes,
        .flops = stage->flops,
        .begin_ns = begin_ns,
        .duration_ns = duration_ns,
    };
}

void told_hand_over_record(const struct told_record *record, const struct sample_sink *sink)
{
    if (record->kind == TOLD_STAGE && sink->stage) {
        sink->stage(sink->user, &record->as.stage);
    } else if (record->kind == TOLD_REQUEST && sink->request) {
        sink->request(sink->user, &record->as.request);
    } else if (record->kind == TOLD_COUNTER && sink->counter) {
        sink->counter(sink->user, &record->as.counter);
    }
}
