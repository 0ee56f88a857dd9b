// cli/interrupt.c - the handler, and the flag that it sets.
#include "cli/interrupt.h"

#include <errno.h>
#include <signal.h>

#include "engine/status.h"

static const int stop_signals[] = {SIGINT, SIGTERM};
static volatile sig_atomic_t requested;

static void on_signal(int signal_number)
{
    requested = 1;
    signal(signal_number, SIG_DFL);    // the next one is obeyed at once
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
    return requested;
}

int interrupt_check(void)
{
    return requested ? status_fail(-EINTR, "interrupted") : 0;
}
