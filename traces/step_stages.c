// traces/step_stages.c - stages that wait for their step.
#include "traces/step_stages.h"

#include <errno.h>
#include <stdlib.h>

enum { FIRST_CAPACITY = 256 };

int step_stages_add(struct step_stages *waiting, const struct stage_sample *sample)
{
    const struct stage_sample *first = waiting->stages;
    if (waiting->n > 0 && (first->source != sample->source || first->step != sample->step)) {
        waiting->orphans += waiting->n;
        waiting->n = 0;
    }
    if (waiting->n == waiting->capacity) {
        int64_t capacity = waiting->capacity ? 2 * waiting->capacity : FIRST_CAPACITY;
        struct stage_sample *grown = realloc(waiting->stages, (size_t)capacity * sizeof *grown);
        if (!grown) {
            return -ENOMEM;
        }
        waiting->stages = grown;
        waiting->capacity = capacity;
    }
    waiting->stages[waiting->n++] = *sample;
    return 0;
}

int64_t step_stages_take(struct step_stages *waiting, const struct step_sample *step)
{
    int64_t n = waiting->n;
    waiting->n = 0;
    if (n > 0 && (waiting->stages->source != step->source || waiting->stages->step != step->step)) {
        waiting->orphans += n;
        return 0;
    }
    return n;
}

static int by_begin(const void *left, const void *right)
{
    int64_t a = ((const struct stage_sample *)left)->begin_ns, b = ((const struct stage_sample *)right)->begin_ns;
    return (a > b) - (a < b);
}

int64_t step_stages_covered_ns(struct stage_sample *stages, int64_t n, const struct step_sample *step)
{
    int64_t step_end_ns = step->begin_ns + step->duration_ns, covered = 0, reached_ns = step->begin_ns;
    qsort(stages, (size_t)n, sizeof *stages, by_begin);
    for (int64_t i = 0; i < n; i++) {
        int64_t begin_ns = stages[i].begin_ns > reached_ns ? stages[i].begin_ns : reached_ns;
        int64_t end_ns = stages[i].begin_ns + stages[i].duration_ns;
        end_ns = end_ns < step_end_ns ? end_ns : step_end_ns;
        if (end_ns > begin_ns) {
            covered += end_ns - begin_ns;
            reached_ns = end_ns;
        }
    }
    return covered;
}

int64_t step_stages_device_ns(const struct stage_sample *stages, int64_t n)
{
    int64_t begin_ns = INT64_MAX, end_ns = INT64_MIN;
    for (int64_t i = 0; i < n; i++) {
        int64_t stage_end_ns = stages[i].begin_ns + stages[i].duration_ns;
        if (stages[i].stage != STAGE_HOST) {
            begin_ns = stages[i].begin_ns < begin_ns ? stages[i].begin_ns : begin_ns;
            end_ns = stage_end_ns > end_ns ? stage_end_ns : end_ns;
        }
    }
    return end_ns > begin_ns ? end_ns - begin_ns : 0;
}

void step_stages_free(struct step_stages *waiting)
{
    free(waiting->stages);
    *waiting = (struct step_stages){0};
}
