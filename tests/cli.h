// tests/cli.h - runs the program under test in a folder of its own, and keeps what it says.
//
// For test programs of a single file. main() begins with cli_open(); cli_close() takes the folder away.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include "tests/check.h"

static char folder[] = "/tmp/clsa-test-XXXXXX";
static char output[8 << 20], errors[1 << 16];    // of the last run, each with a 0 at its end

// False: there is no program to be tested.
static inline bool cli_open(void)
{
    if (!getenv("CLSA_BINARY")) {
        return false;
    }
    CHECK(mkdtemp(folder) != NULL);
    return true;
}

static inline void cli_close(void)
{
    char line[64];
    snprintf(line, sizeof line, "rm -rf %s", folder);
    CHECK(system(line) == 0);
}

// A file of the folder; nothing where there is none.
static inline void read_into(const char *name, char *buffer, size_t bytes)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *stream = fopen(path, "r");
    size_t n = stream ? fread(buffer, 1, bytes - 1, stream) : 0;
    buffer[n] = 0;
    if (stream) {
        fclose(stream);
    }
}

// Takes over what a run with that status of wait() has said. Returns its exit status; -1: a signal ended it.
static inline int cli_ended(int status)
{
    read_into("stdout", output, sizeof output);
    read_into("stderr", errors, sizeof errors);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// Runs the program in the folder, so that files there go by their names. Returns its exit status.
static inline int clsa(const char *arguments)
{
    char line[4096];
    snprintf(line, sizeof line, "cd %s && %s %s >stdout 2>stderr </dev/null", folder, getenv("CLSA_BINARY"), arguments);
    return cli_ended(system(line));
}

// Every one of `words`, separated by '|', is in what the run said on stderr.
static inline void expect_words(const char *arguments, const char *words)
{
    char copy[512];
    snprintf(copy, sizeof copy, "%s", words);
    for (char *word = strtok(copy, "|"); word; word = strtok(NULL, "|")) {
        CHECK_MESSAGE(strstr(errors, word) != NULL, "clsa %s: \"%s\" is not in: %s", arguments, word, errors);
    }
}

// Wrong input is exit 2 and one line that holds every one of `words`, and nothing on stdout.
static inline void expect_refused(const char *arguments, const char *words)
{
    int status = clsa(arguments);
    const char *newline = strchr(errors, '\n');
    CHECK_MESSAGE(status == 2, "clsa %s: exit %d: %s", arguments, status, errors);
    CHECK_MESSAGE(newline && !newline[1] && !output[0], "clsa %s: not one line, or output beside it: %s%s", arguments,
                  errors, output);
    expect_words(arguments, words);
}
