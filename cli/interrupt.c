// cli/interrupt.c - the handler, and the flag that it sets.
#include "cli/interrupt.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include "engine/status.h"

static const int stop_signals[] = {SIGINT, SIGTERM};
static const int64_t same_asking_ns = 500000000;
static _Atomic int64_t requested_ns;    // when a stop was asked for, by the steady clock; 0: never
static _Atomic bool requested;

static void on_signal(int signal_number)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    int64_t now_ns = time.tv_sec * INT64_C(1000000000) + time.tv_nsec, first_ns = 0;
    atomic_store(&requested, true);
    if (!atomic_compare_exchange_strong(&requested_ns, &first_ns, now_ns) && now_ns - first_ns > same_asking_ns) {
        signal(signal_number, SIG_DFL);
        raise(signal_number);    // obeyed when this returns
    }
}

void interrupt_catch(void)
{
    static bool caught;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};    // writes are not cut short
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof stop_signals / sizeof stop_signals[0] && !caught; i++) {
        struct sigaction old;
        if (sigaction(stop_signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) {
            sigaction(stop_signals[i], &action, NULL);
        }
    }
    caught = true;
}

bool interrupt_requested(void)
{
    return atomic_load(&requested);
}

const _Atomic bool *interrupt_flag(void)
{
    return &requested;
}

int interrupt_check(void)
{
    return interrupt_requested() ? status_fail(-EINTR, "interrupted") : 0;
}
