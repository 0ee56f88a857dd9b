// tests/test_perf_events.c - the CPU's counters: they count work, that of threads too, or say why they do not.
#include <errno.h>
#include <pthread.h>

#include "cupti/perf_events.h"
#include "engine/status.h"
#include "tests/check.h"

enum { ROUNDS = 20000000 };

static void *work(void *user)
{
    volatile uint64_t *state = user;
    for (int i = 0; i < ROUNDS; i++) {
        *state = *state * 6364136223846793005u + 1;
    }
    return NULL;
}

static double instructions(const struct perf_events *events)
{
    struct perf_counts counts;
    perf_events_read(events, &counts);
    return counts.of[PERF_INSTRUCTIONS];
}

static void counts_work(const struct perf_events *events)
{
    uint64_t state = check_random();
    pthread_t thread;
    double before = instructions(events);
    if (isnan(before)) {
        return;    // a CPU without that event
    }
    work(&state);
    double own = instructions(events) - before;
    CHECK_MESSAGE(own > 3.0 * ROUNDS && own < 30.0 * ROUNDS, "%g instructions in %d rounds", own, ROUNDS);
    CHECK(pthread_create(&thread, NULL, work, &state) == 0);
    pthread_join(thread, NULL);
    double both = instructions(events) - before;
    CHECK_MESSAGE(both > own + 3.0 * ROUNDS, "a thread's work: %g, then %g instructions", own, both);
}

int main(void)
{
    check_begin();
    struct perf_events *events;
    for (int i = 0; i < PERF_EVENTS; i++) {
        CHECK(strlen(perf_event_name((enum perf_event)i)) > 0);
    }
    int error = perf_events_open(&events);
    if (error) {
        CHECK(!events && (error == -EACCES || error == -ENOTSUP));
        CHECK_MESSAGE(strstr(status_text(), "CPU counters: ") && strlen(status_text()) > 30, "%s", status_text());
        perf_events_close(NULL);
        return check_failures ? check_end() : check_skip(status_text());
    }
    counts_work(events);
    perf_events_close(events);
    return check_end();
}
