// tui/commands.h - what can be typed after ":": words with an argument, completed by Tab.
//
// A command does what keys do, by name. What it asks of the dashboard or of the stream's owner comes back as a request.
#pragma once

#include "tui/keys.h"

// False, with a text in ui->message, if there is no such command or its argument makes no sense.
bool command_execute(struct ui *ui, const struct state *state, const char *line, struct request_to_owner *request);

// Completes the word at the end of the line as far as it is certain; what is possible otherwise goes to ui->message.
void command_complete(struct ui *ui, const struct state *state);

// What --help and the overlay list.
struct command_help {
    const char *usage, *does;
};
extern const struct command_help command_helps[];
extern const int32_t command_n_helps;
