// tests/test_recording_cli.c - what clsa profile leaves behind: packed, live, the last seconds, a full disk, a kill.
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/status.h"
#include "tests/check.h"
#include "traces/trace.h"

enum { MAX_ARGUMENTS = 32 };

static char folder[64];
static const char *binary;

static const char *path_of(const char *name)
{
    static char paths[4][160];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

// Starts `clsa profile` of a small run with more arguments, in the folder; its words go to the file "err".
static pid_t start(const char *const *more, rlim_t max_file_bytes, int32_t output_tokens)
{
    char output[16];
    snprintf(output, sizeof output, "%d", output_tokens);
    const char *arguments[MAX_ARGUMENTS] = {binary,      "profile",   "--model",  "tiny",   "--device",
                                            "reference", "--threads", "1",        "--text", "abcdefgh",
                                            "--context", "64",        "--output", output};
    int n = 14;
    while (*more) {
        arguments[n++] = *more++;
    }
    pid_t child = fork();
    if (child == 0) {
        if (max_file_bytes) {
            struct rlimit limit = {max_file_bytes, max_file_bytes};
            setrlimit(RLIMIT_FSIZE, &limit);
            signal(SIGXFSZ, SIG_IGN);
        }
        if (chdir(folder) != 0 || !freopen("out", "w", stdout) || !freopen("err", "w", stderr)) {
            _exit(99);
        }
        execv(binary, (char **)(uintptr_t)arguments);
        _exit(99);
    }
    return child;
}

static char *read_words(const char *name)
{
    static char words[8192];
    FILE *stream = fopen(path_of(name), "rb");
    size_t n = stream ? fread(words, 1, sizeof words - 1, stream) : 0;
    words[n] = 0;
    if (stream) {
        fclose(stream);
    }
    return words;
}

static void expect(const char *const *more, rlim_t max_file_bytes, int expected, const char *on_stderr)
{
    int status = 0;
    pid_t child = start(more, max_file_bytes, 30);
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    int got = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    char *words = read_words("err");
    CHECK_MESSAGE(got == expected && strstr(words, on_stderr), "%s %s: exit %d, expected %d and '%s':\n%s", more[0],
                  more[0] ? more[1] : "", got, expected, on_stderr, words);
}

static void on_finding(void *user, const char *finding)
{
    (void)user;
    fprintf(stderr, "%s\n", finding);
}

static struct trace_stats expect_trace(const char *name, int64_t least_steps)
{
    struct trace_stats stats = {0};
    int error = trace_read(path_of(name), NULL, &stats);
    CHECK_MESSAGE(error == 0 && stats.step_samples >= least_steps, "%s: %d %s, %lld steps", name, error,
                  error ? status_text() : "", (long long)stats.step_samples);
    CHECK(trace_check(path_of(name), on_finding, NULL) == 0);
    CHECK(strcmp(stats.command, "clsa profile") == 0);
    return stats;
}

static bool is_there(const char *name)
{
    return access(path_of(name), F_OK) == 0;
}

static bool is_packed(const char *name)
{
    unsigned char magic[2] = {0};
    FILE *stream = fopen(path_of(name), "rb");
    bool packed = stream && fread(magic, 1, 2, stream) == 2 && magic[0] == 0x1f && magic[1] == 0x8b;
    if (stream) {
        fclose(stream);
    }
    return packed;
}

static void test_forms(void)
{
    expect((const char *[]){"--out", "plain", NULL}, 0, 0, "plain: open it");
    struct trace_stats plain = expect_trace("plain", 30);
    CHECK(!is_packed("plain"));
    expect((const char *[]){"--out", "a.pftrace.gz", NULL}, 0, 0, "");
    CHECK(expect_trace("a.pftrace.gz", 30).stage_samples == plain.stage_samples && is_packed("a.pftrace.gz"));
    expect((const char *[]){"--gzip", "--live", "--out", "b.pftrace", NULL}, 0, 0, "");
    CHECK(expect_trace("b.pftrace", 30).stage_samples == plain.stage_samples && is_packed("b.pftrace"));
    expect((const char *[]){"--live", "--ring", "3", NULL}, 0, 2, "exclude each other");
    expect((const char *[]){"--slow-step", "3", NULL}, 0, 2, "give both");
    expect((const char *[]){"--ring", "3", "--out", "none/here", NULL}, 0, 2, "none/here");
    CHECK(strstr(read_words("out"), "method") == NULL);    // told before the run
}

static void test_ring(void)
{
    expect((const char *[]){"--ring", "1000", "--out", "ring.pftrace", NULL}, 0, 0, "");
    CHECK(expect_trace("ring.pftrace", 30).stage_samples > 0 && !is_there("ring-slow1.pftrace"));
    // Every step is slower than that: one dump, as no two show the same.
    expect((const char *[]){"--ring", "1000", "--slow-step", "0.000001", "--out", "some.ring.pftrace", NULL}, 0, 0,
           "see some-slow1.ring.pftrace");
    expect_trace("some.ring.pftrace", 30);
    expect_trace("some-slow1.ring.pftrace", 1);
    CHECK(!is_there("some-slow2.ring.pftrace"));
}

// A file that may not grow is a full disk: one line, the run goes on to its table, nothing half is left.
static void test_full_disk(void)
{
    expect((const char *[]){"--out", "full.pftrace", NULL}, 30000, 1, "full.pftrace: cannot write: File too large");
    const char *words = read_words("err");
    CHECK_MESSAGE(strchr(words, '\n') && !strchr(words, '\n')[1], "one line, not:\n%s", words);
    CHECK(strstr(read_words("out"), "attention") && !is_there("full.pftrace"));
    // That a slow step's file failed is no reason to keep silent of the one that was asked for.
    expect((const char *[]){"--ring", "1000", "--slow-step", "0.000001", "--out", "full.ring.pftrace", NULL}, 30000, 1,
           "full.ring.pftrace: cannot write");
    CHECK(!is_there("full.ring.pftrace") && !is_there("full-slow1.ring.pftrace"));
    expect((const char *[]){"--live", "--out", "full.pftrace", NULL}, 30000, 1, "cannot write");
    struct trace_stats stats;
    CHECK_MESSAGE(trace_read(path_of("full.pftrace"), NULL, &stats) == 0, "%s", status_text());
}

static void test_kill(const char *name)
{
    struct trace_stats stats = {0};
    pid_t child = start((const char *[]){"--live", "--out", name, NULL}, 0, 1 << 20);
    for (int32_t tries = 0; tries < 1000 && stats.step_samples < 100; tries++) {
        usleep(50000);
        if (is_there(name)) {
            trace_read(path_of(name), NULL, &stats);
        }
    }
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
    int error = trace_read(path_of(name), NULL, &stats);
    CHECK_MESSAGE((error == 0 || stats.truncated) && stats.step_samples >= 100, "%s after a kill: %d %s, %lld steps",
                  name, error, status_text(), (long long)stats.step_samples);
}

int main(void)
{
    check_begin();
    binary = getenv("CLSA_BINARY");
    if (!binary) {
        return check_skip("CLSA_BINARY is not set: run through ctest");
    }
    snprintf(folder, sizeof folder, "/tmp/test_recording_cli_XXXXXX");
    if (!mkdtemp(folder)) {
        return check_skip("no folder under /tmp can be made");
    }
    test_forms();
    test_ring();
    test_full_disk();
    test_kill("killed.pftrace");
    test_kill("killed.pftrace.gz");
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    CHECK(system(command) == 0);
    return check_end();
}
