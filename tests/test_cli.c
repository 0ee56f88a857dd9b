// tests/test_cli.c - the program as its users meet it: exit statuses, one clear line for wrong input, nothing
// half-written.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/interrupt.h"
#include "tests/check.h"

static char folder[] = "/tmp/clsa-cli-XXXXXX";
static char output[1 << 20];    // of the last command: stdout, then stderr

static void read_into(const char *path, char *buffer, size_t bytes)
{
    FILE *stream = fopen(path, "r");
    size_t n = stream ? fread(buffer, 1, bytes - 1, stream) : 0;
    buffer[n] = 0;
    if (stream) {
        fclose(stream);
    }
}

static char errors[1 << 16];

// Runs the program under `prefix` with these arguments (a shell line) and returns its exit status; -1 if a signal ended
// it.
static int clsa_under(const char *prefix, const char *arguments)
{
    char line[4096], path[256];
    snprintf(line, sizeof line, "%s %s %s >%s/stdout 2>%s/stderr </dev/null", prefix, getenv("CLSA_BINARY"), arguments,
             folder, folder);
    int status = system(line);
    snprintf(path, sizeof path, "%s/stdout", folder);
    read_into(path, output, sizeof output);
    snprintf(path, sizeof path, "%s/stderr", folder);
    read_into(path, errors, sizeof errors);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int clsa(const char *arguments)
{
    return clsa_under("", arguments);
}

static int lines(const char *text)
{
    int n = 0;
    for (; *text; text++) {
        n += *text == '\n';
    }
    return n;
}

// Wrong input: that exit status, one line, and every one of `words` (separated by '|') in it.
static void expect_error(int status, const char *arguments, const char *words)
{
    int got = clsa(arguments);
    CHECK_MESSAGE(got == status, "clsa %s: exit %d, expected %d: %s", arguments, got, status, errors);
    CHECK_MESSAGE(lines(errors) == 1, "clsa %s: %d lines on stderr, expected one: %s", arguments, lines(errors),
                  errors);
    char copy[512];
    snprintf(copy, sizeof copy, "%s", words);
    for (char *word = strtok(copy, "|"); word; word = strtok(NULL, "|")) {
        CHECK_MESSAGE(strstr(errors, word) != NULL, "clsa %s: \"%s\" is not in: %s", arguments, word, errors);
    }
}

__attribute__((format(printf, 3, 4))) static const char *format(char *buffer, size_t bytes, const char *text, ...)
{
    va_list arguments;
    va_start(arguments, text);
    vsnprintf(buffer, bytes, text, arguments);
    va_end(arguments);
    return buffer;
}

static void write_file(const char *path, const char *text, size_t length)
{
    FILE *stream = fopen(path, "wb");
    CHECK(stream && fwrite(text, 1, length, stream) == length);
    if (stream) {
        fclose(stream);
    }
}

static int files_in(const char *path)
{
    DIR *directory = opendir(path);
    int n = 0;
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        n += entry->d_name[0] != '.';
    }
    if (directory) {
        closedir(directory);
    }
    return n;
}

static void wrong_flags(void)
{
    expect_error(2, "nonsense", "nonsense|no such command");
    expect_error(2, "run --no-such-flag", "--no-such-flag|no such option");
    expect_error(2, "compare --paper --text x --html paper.html", "--html|--paper");
    expect_error(2, "run --top-k 0", "--top-k 0|from 1");
    expect_error(2, "run --top-k -5", "--top-k -5|whole number");
    expect_error(2, "run --output 1.5", "--output 1.5");
    expect_error(2, "run --context", "--context|needs a value");
    expect_error(2, "run --model tiny --method clsaa --text x", "clsaa");
    expect_error(2, "run --model gigantic --text x", "gigantic|demo-8m");
    expect_error(2, "run --model tiny --text x --device abacus", "abacus");
    expect_error(2, "run --model tiny --method block --top-k 13 --block-tokens 4 --text x", "13");
    expect_error(2, "run --model tiny --text x --weight-dtype fp8", "fp8");
    expect_error(2, "run --model tiny --text x --device cpu:1", "cpu:1|cuda");
    expect_error(2, "run --model tiny --text x --context 128M", "--context|--output");
    expect_error(2, "model info gigantic", "gigantic|demo-8m");
    expect_error(2, "sim --model tiny --device no-such-device", "no-such-device");
    expect_error(2, "sim --model tiny --device H100 --batch -1", "--batch");
    expect_error(2, "top", "terminal|--snapshot");
}

// A file that cannot be written is told before there is anything to write. A model of this size, were it begun, would
// take longer than a test may; what was there stays.
static void wrong_outputs(void)
{
    static const char *const flags[] = {"compare --model bench-100m --text x --context 1M --trace",
                                        "compare --model bench-100m --text x --context 1M --html",
                                        "profile --model bench-100m --text x --context 1M --out",
                                        "eval --model demo --context 1M --results",
                                        "sim --workload day --fit",
                                        "sim --workload day --every-step --html",
                                        "sim --workload day --every-step --trace",
                                        "sim --html",
                                        "sim --trace",
                                        "plan --workload day --html",
                                        "plan merge a --out",
                                        "calibrate a --out",
                                        "trace import a --engine vllm --out"};
    char line[1024], kept[512], text[16];
    write_file(format(kept, sizeof kept, "%s/kept", folder), "as it was", 9);
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        expect_error(2, format(line, sizeof line, "%s %s/none/out", flags[i], folder),
                     "none/out|cannot write|No such file");
        expect_error(2, format(line, sizeof line, "%s %s", flags[i], folder), "is a directory");
        int before = files_in(folder);
        expect_error(2, format(line, sizeof line, "%s %s --no-such-flag", flags[i], kept), "--no-such-flag");
        CHECK(files_in(folder) == before);
    }
    read_into(kept, text, sizeof text);
    CHECK(strcmp(text, "as it was") == 0);
}

// A pipe is written to; a file renamed over it would leave its reader waiting, and over a device, would leave none.
static void pipes(void)
{
    char line[1024], path[512], text[4096] = "";
    struct stat info;
    CHECK(mkfifo(format(path, sizeof path, "%s/pipe", folder), 0600) == 0);
    int reader = open(path, O_RDWR | O_NONBLOCK);    // so that no one waits for the other
    CHECK(reader >= 0);
    format(line, sizeof line, "sim --workload reasoning --requests 20 --model tiny --fit %s", path);
    CHECK_MESSAGE(clsa(line) == 0, "%s", errors);
    CHECK(read(reader, text, sizeof text - 1) > 0 && strstr(text, "\"classes\""));
    CHECK(lstat(path, &info) == 0 && S_ISFIFO(info.st_mode));
    close(reader);
    unlink(path);
    expect_error(2, "sim --model tiny --html ''", "--html|empty name");
}

// More than any machine has: refused before weights are made, with what would fit, instead of being killed for it.
static void no_room(void)
{
    expect_error(1, "run --model bench-100m --method dense --text abc --context 1M --batch 1024",
                 "no memory for a KV cache|this machine has|would fit");
}

static void wrong_files(void)
{
    char line[1024], path[512];
    expect_error(2, "run --model tiny --prompt /no/such/file", "/no/such/file");
    expect_error(2, format(line, sizeof line, "run --model tiny --prompt %s", folder), folder);
    expect_error(2, format(line, sizeof line, "run --model %s --text x", folder), "config.json");
    expect_error(2, "trace info /no/such/trace.pftrace", "/no/such/trace.pftrace");
    expect_error(2, format(line, sizeof line, "trace info %s", folder), folder);
    write_file(format(path, sizeof path, "%s/noise.pftrace", folder), "this is not a trace", 19);
    expect_error(2, format(line, sizeof line, "trace check %s", path), "noise.pftrace");
    expect_error(2, format(line, sizeof line, "top --replay %s --snapshot overview", path), "noise.pftrace");
    write_file(format(path, sizeof path, "%s/config.json", folder), "{\"hidden_size\": -4", 18);
    expect_error(2, format(line, sizeof line, "sim --model %s --device H100", path), "config.json");
    unlink(path);
}

// What `compare --json` printed of its first method; NaN: unknown.
static double right_percent(void)
{
    const char *value = strstr(output, "\"right_percent\": ");
    double right = NAN;
    return value && sscanf(value, "\"right_percent\": %lf", &right) == 1 ? right : NAN;    // null: unknown
}

// The trained models are found by name from anywhere; what they have no weights for is left out of a comparison.
static void shipped_models(void)
{
    CHECK(clsa("model check demo-yoco") == 0);
    CHECK(clsa("model check demo-transformer") == 0);
    CHECK(clsa("run --model demo --method clsa --text hello --output 2") == 0);
    CHECK(clsa("run --model demo --method block --text hello --output 2") == 0);
    CHECK(clsa("compare --model demo --text hello --context 40 --output 2") == 0);
    CHECK(strstr(output, "clsa-block") && strstr(output, "quest") && !strstr(output, "dsa"));
    // A text that goes on behind the prompt is decoded along: half of its bytes a trained model guesses, a random one
    // few.
    const char *text =
        "compare --prompt workloads/texts/persuasion.txt --context 512 --output 64 --methods clsa --json";
    char line[512];
    CHECK(clsa(format(line, sizeof line, "%s --model demo", text)) == 0);
    double right = right_percent();
    CHECK_MESSAGE(right > 40 && right < 100, "%g", right);
    CHECK(clsa(format(line, sizeof line, "%s --model demo-8m", text)) == 0);
    right = right_percent();
    CHECK_MESSAGE(right >= 0 && right < 20, "%g", right);
    CHECK(clsa("compare --model demo --text hello --context 40 --output 2 --methods clsa --json") == 0);
    CHECK(isnan(right_percent()));    // nothing behind the prompt
    expect_error(2, "run --model demo-yoco --method dense --text x", "demo-yoco|dense");
    expect_error(2, "run --model demo --method dsa --text x", "demo-transformer|lightning_indexer");
    expect_error(2, "run --model ../models/demo-yoco --text x", "neither a folder");
}

static void models(void)
{
    char line[1024], path[512], copy[512];
    CHECK(clsa(format(line, sizeof line, "model init --preset tiny --methods clsa --out %s/model", folder)) == 0);
    CHECK(clsa(format(line, sizeof line, "run --model %s/model --method clsa --text hello --output 4", folder)) == 0);
    expect_error(2, format(line, sizeof line, "run --model %s/model --method dense --text x", folder), "dense");
    expect_error(2, format(line, sizeof line, "model init --preset tiny --methods clsa --out %s/model", folder),
                 "model");
    // Cut and corrupted weights.
    format(path, sizeof path, "%s/model/model.safetensors", folder);
    format(copy, sizeof copy, "cp %s %s/whole", path, folder);
    CHECK(system(copy) == 0);
    struct stat info;
    CHECK(stat(path, &info) == 0 && truncate(path, info.st_size / 2) == 0);
    expect_error(2, format(line, sizeof line, "run --model %s/model --method clsa --text x", folder),
                 "model.safetensors");
    write_file(path, "\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10);
    expect_error(2, format(line, sizeof line, "run --model %s/model --method clsa --text x", folder),
                 "model.safetensors");
    format(copy, sizeof copy, "mv %s/whole %s", folder, path);
    CHECK(system(copy) == 0);
    CHECK(clsa(format(line, sizeof line, "model check %s/model", folder)) == 0);
    // Sizes that overflow.
    format(path, sizeof path, "%s/model/config.json", folder);
    char config[8192], absurd[9000];
    read_into(path, config, sizeof config);
    char *size = strstr(config, "\"hidden_size\"");
    CHECK(size != NULL);
    if (size) {
        *size = 0;
        int length = snprintf(absurd, sizeof absurd, "%s\"hidden_size\": 9223372036854775807%s", config,
                              strpbrk(size + 1, ",}"));
        write_file(path, absurd, (size_t)length);
        expect_error(2, format(line, sizeof line, "run --model %s/model --method clsa --text x", folder),
                     "config.json|hidden_size");
    }
}

static void outputs(void)
{
    char line[1024], path[512];
    const char *work = "profile --model tiny --method clsa --text hello --output 8";
    CHECK(clsa(format(line, sizeof line, "%s --out %s/a.pftrace", work, folder)) == 0);
    CHECK(clsa(format(line, sizeof line, "trace check %s/a.pftrace", folder)) == 0);
    CHECK(clsa(format(line, sizeof line, "trace summary %s/a.pftrace --json", folder)) == 0);
    CHECK(output[0] == '{' && strstr(output, "\"attention\""));
    // Wrong input leaves an older file alone.
    expect_error(
        2, format(line, sizeof line, "profile --model tiny --method clsa,nonsense --text x --out %s/a.pftrace", folder),
        "nonsense");
    expect_error(2, format(line, sizeof line, "profile --model tiny --method , --text x --out %s/a.pftrace", folder),
                 "--method");
    expect_error(2,
                 format(line, sizeof line, "profile --model tiny --text x --collect kernel --out %s/a.pftrace", folder),
                 "--device cuda");
    expect_error(2, format(line, sizeof line, "profile --model tiny --text x --collect all --out %s/a.pftrace", folder),
                 "--collect all");
    CHECK(clsa(format(line, sizeof line, "profile --model tiny --text x --output 4 --collect off --out %s/off.pftrace",
                      folder)) == 0);
    CHECK(clsa(format(line, sizeof line, "trace summary %s/a.pftrace --json", folder)) == 0);
    CHECK(strstr(output, "\"attention\""));
    // Cut in the middle: what is whole is told, the cut is an error.
    struct stat info;
    format(path, sizeof path, "%s/a.pftrace", folder);
    CHECK(stat(path, &info) == 0 && truncate(path, info.st_size / 2 + 1) == 0);
    expect_error(2, format(line, sizeof line, "trace check %s", path), "a.pftrace");
    // Places that cannot be written.
    format(path, sizeof path, "%s/out", folder);
    CHECK(mkdir(path, 0755) == 0);
    expect_error(2, format(line, sizeof line, "%s --out %s", work, path), "out|directory");
    expect_error(2, format(line, sizeof line, "%s --out %s/none/a.pftrace", work, path), "a.pftrace");
    expect_error(2, format(line, sizeof line, "%s --out /proc/a.pftrace", work), "/proc/a.pftrace");
    // A disk that is full: the kernel's limit on file size stands in for it.
    struct rlimit before, limit = {4096, 4096};
    getrlimit(RLIMIT_FSIZE, &before);
    limit.rlim_max = before.rlim_max;
    setrlimit(RLIMIT_FSIZE, &limit);
    int status = clsa(format(line, sizeof line,
                             "profile --model tiny --method clsa --text hello --output 64 --out %s/b.pftrace", path));
    setrlimit(RLIMIT_FSIZE, &before);
    CHECK_MESSAGE(status == 1, "full disk: exit %d: %s", status, errors);
    CHECK_MESSAGE(strstr(errors, "b.pftrace") != NULL, "full disk: %s", errors);
    CHECK_MESSAGE(files_in(path) == 0, "full disk: %d files left behind", files_in(path));
}

// Ctrl-C and kill: one line, exit 130, and what was being written is whole or not there.
static void interrupts(void)
{
    char line[1024], path[512];
    static const char *const signals[] = {"INT", "TERM"};
    format(path, sizeof path, "%s/stopped", folder);
    CHECK(mkdir(path, 0755) == 0);
    for (int i = 0; i < 2; i++) {
        char prefix[64];
        // Not in the foreground, so that timeout sends two: to the program and to its group. They are one asking.
        snprintf(prefix, sizeof prefix, "timeout --preserve-status -s %s 1", signals[i]);
        int status = clsa_under(
            prefix, format(line, sizeof line, "profile --model tiny --text x --output 1M --out %s/a.pftrace", path));
        CHECK_MESSAGE(status == 130 && lines(errors) == 1 && strstr(errors, "interrupted"), "SIG%s: exit %d: %s",
                      signals[i], status, errors);
        CHECK_MESSAGE(files_in(path) == 1, "SIG%s: %d files", signals[i], files_in(path));
        CHECK(clsa(format(line, sizeof line, "trace check %s/a.pftrace", path)) == 0);
        status = clsa_under(prefix, format(line, sizeof line, "model init --preset paper-4b --out %s/model", path));
        CHECK_MESSAGE(status == 130 && lines(errors) == 1, "SIG%s: exit %d: %s", signals[i], status, errors);
        CHECK_MESSAGE(files_in(path) == 1, "SIG%s: %d files", signals[i], files_in(path));
    }
}

// Signals that come together are one asking; one that comes later is obeyed at once.
static void second_asking(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        interrupt_catch();
        raise(SIGINT);
        raise(SIGINT);
        raise(SIGTERM);
        if (!interrupt_requested()) {
            _exit(1);
        }
        usleep(700000);
        raise(SIGTERM);
        _exit(2);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_MESSAGE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM, "status %x", (unsigned)status);
}

// No line of any command's help is wider than the margin; an option's text, broken or not, is all there.
static void test_help(void)
{
    static const char *const commands[] = {"", "run", "compare", "eval", "profile", "trace", "trace info",
                                           "trace summary", "trace diff", "trace check", "trace import", "calibrate",
                                           "sim", "plan", "plan merge", "top", "model", "model init",
                                           "model info", "model check", "devices"};
    char line[64];
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        CHECK(clsa(format(line, sizeof line, "%s --help", commands[i])) == 0);
        for (char *at = strtok(output, "\n"); at; at = strtok(NULL, "\n")) {
            CHECK_MESSAGE(strlen(at) <= 120, "%s --help: %s", commands[i], at);
        }
    }
    CHECK(clsa("profile --help") == 0);
    CHECK(strstr(output, "counters\n                                 runs twice there\n"));
    CHECK(strstr(output, "  --output <tokens>              tokens to decode [64]\n"));
}

static void good_runs(void)
{
    char line[1024];
    CHECK(clsa("--help") == 0 && strstr(output, "compare"));
    // Results that cannot be written are a failure, whatever the work came to.
    format(line, sizeof line, "%s model info tiny >/dev/full 2>%s/stderr", getenv("CLSA_BINARY"), folder);
    int status = system(line);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    CHECK(clsa("compare --help") == 0 && strstr(output, "--context"));
    CHECK(clsa("run --model tiny --method clsa --text hello --output 4 --json") == 0 && output[0] == '{');
    CHECK(clsa("compare --model tiny --text hello --context 64 --output 4 --json") == 0 && strstr(output, "\"quest\""));
    CHECK(clsa("sim --model paper-4b --method clsa,dense --device H100 --context 128K --batch 8 --json") == 0);
    CHECK(clsa("devices --json") == 0 && output[0] == '{');
    CHECK(clsa("model info tiny --json") == 0 && output[0] == '{');
    // The same seed, the same words; another backend, the same words.
    CHECK(clsa("run --model tiny --method clsa --text hello --output 16 --temperature 0.8 --seed 7 --json") == 0);
    char *first = strdup(strstr(output, "\"text\"") ? strstr(output, "\"text\"") : "");
    CHECK(clsa("run --model tiny --method clsa --text hello --output 16 --temperature 0.8 --seed 7 --json") == 0);
    char *second = strstr(output, "\"text\"");
    CHECK(first[0] && second && strncmp(first, second, strcspn(first, "\n")) == 0);
    free(first);
    CHECK(clsa(format(line, sizeof line,
                      "profile --model tiny --method clsa,dense --text hello --output 8 --out %s/p.pftrace", folder)) ==
          0);
    CHECK(clsa(format(line, sizeof line, "top --replay %s/p.pftrace --snapshot stages --rows 24 --cols 80 --ascii",
                      folder)) == 0);
    CHECK_MESSAGE(strstr(output, "attention") != NULL, "snapshot: %s", output);
}

int main(void)
{
    check_begin();
    if (!getenv("CLSA_BINARY")) {
        return check_skip("CLSA_BINARY does not name the program");
    }
    CHECK(mkdtemp(folder) != NULL);
    wrong_flags();
    wrong_outputs();
    pipes();
    no_room();
    wrong_files();
    shipped_models();
    models();
    outputs();
    interrupts();
    second_asking();
    test_help();
    good_runs();
    char line[64];
    snprintf(line, sizeof line, "rm -rf %s", folder);
    CHECK(system(line) == 0);
    return check_end();
}
