// cli/main.c - main(): finds the subcommand.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    {"run", command_run, "generate from a prompt; prints text, tokens/s and the stage table"},
    {"compare", command_compare, "the same work under several methods: measured, floor, predicted, agreement"},
    {"eval", command_eval, "what methods do to answers: accuracy, bits per byte, what selections miss"},
    {"profile", command_profile, "run and collect, write FILE.pftrace for ui.perfetto.dev"},
    {"trace", command_trace, "info | summary | diff | import | check"},
    {"calibrate", command_calibrate, "traces -> what share of its peaks a device reaches, with residuals"},
    {"sim", command_sim, "what a model and a method should take on a device"},
    {"plan", command_plan, "the smallest fleet for a workload and its limits; what-if sweeps"},
    {"top", command_top, "the dashboard: live, --replay FILE, --snapshot VIEW"},
    {"model", command_model, "init | info | check"},
    {"devices", command_devices, "what is here and what is known"},
};

static void usage(FILE *out)
{
    fputs("usage: clsa COMMAND [options]\n\n"
          "See where the time of sparse attention goes, and plan with it.\n\n", out);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].summary);
    }
    fputs("\nclsa COMMAND --help lists a command's options. Exit status: 0 done, 1 failed, 2 wrong input,\n"
          "130 interrupted (the current step is finished; a trace holds what was recorded until then).\n", out);
}

// Results that did not reach their reader, as on a full disk, are a failure.
static int finish(int status)
{
    bool lost = ferror(stdout) != 0;
    lost = fflush(stdout) != 0 || lost;
    if (!lost || status != EXIT_DONE) {
        return status;
    }
    fprintf(stderr, "clsa: cannot write the results to standard output: %s\n", strerror(errno));
    return EXIT_FAILED;
}

int main(int argc, char **argv)
{
    signal(SIGXFSZ, SIG_IGN);    // a file that may not grow is an error of write(), like a full disk
    if (argc < 2) {
        usage(stderr);
        return EXIT_WRONG_INPUT;
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            return finish(commands[i].run(argc - 1, argv + 1));
        }
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return finish(EXIT_DONE);
    }
    fprintf(stderr, "clsa: %s: no such command; clsa --help lists them\n", argv[1]);
    return EXIT_WRONG_INPUT;
}
