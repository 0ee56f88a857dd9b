// cli/interrupt.h - SIGINT and SIGTERM as a question that loops ask: shall we stop?
//
// A command that is asked to stop finishes the step it is in, completes what it writes, says so in one line and exits
// with EXIT_INTERRUPTED. Who does not want to wait asks a second time: that ends the program at once. Signals within
// half a second are one asking: timeout(1) sends two, to the program and to its group. Commands that never call
// interrupt_catch end at the first signal, as any program does.
#pragma once

#include <stdbool.h>

// From here on the signals only set a flag. A signal that was ignored when the program began stays ignored.
void interrupt_catch(void);

bool interrupt_requested(void);
// The same for code that looks at a flag of its caller's, as a simulation does; valid for ever.
const _Atomic bool *interrupt_flag(void);

// 0, or -EINTR and a status text once a stop was asked for.
int interrupt_check(void);
