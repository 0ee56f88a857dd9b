// tests/bench/pty.c - the reading thread, and what it remembers.
#include "tests/bench/pty.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { KEPT_BYTES = 1 << 20, END_MS = 5000 };
static const double quiet_s = 0.003;     // frames are written at once: a pause of this length ends one

struct pty {
    int fd;
    pid_t pid;
    int status;                  // of waitpid, once reaped
    bool reaped, started;
    pthread_t reader;
    pthread_mutex_t mutex;
    char *kept;                  // [kept_bytes + 1] drawn since the last pty_send, the newest KEPT_BYTES of it
    size_t kept_bytes;
    double last_s;               // when the last byte came
    int64_t drawn_bytes, frames;
};

double pty_now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void keep(struct pty *pty, const char *bytes, size_t n)
{
    double now_s = pty_now_s();
    pthread_mutex_lock(&pty->mutex);
    if (pty->kept_bytes + n > KEPT_BYTES) {
        size_t half = pty->kept_bytes / 2;
        memmove(pty->kept, pty->kept + half, pty->kept_bytes - half);
        pty->kept_bytes -= half;
    }
    memcpy(pty->kept + pty->kept_bytes, bytes, n);
    pty->kept_bytes += n;
    pty->kept[pty->kept_bytes] = 0;
    pty->frames += now_s - pty->last_s > quiet_s;
    pty->last_s = now_s;
    pty->drawn_bytes += (int64_t)n;
    pthread_mutex_unlock(&pty->mutex);
}

static void *read_all(void *user)
{
    struct pty *pty = user;
    char bytes[1 << 15];
    for (;;) {
        ssize_t n = read(pty->fd, bytes, sizeof bytes);
        if (n > 0) {
            keep(pty, bytes, (size_t)n);
        } else if (n == 0 || errno != EINTR) {
            return NULL;    // EIO: the program's end of the terminal is closed
        }
    }
}

struct pty *pty_open(char *const argv[], int32_t rows, int32_t cols)
{
    struct pty *pty = calloc(1, sizeof *pty);
    struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)cols};
    if (!pty || !(pty->kept = calloc(1, KEPT_BYTES + 1))) {
        free(pty);
        fprintf(stderr, "pty: out of memory\n");
        return NULL;
    }
    pthread_mutex_init(&pty->mutex, NULL);
    pty->pid = forkpty(&pty->fd, NULL, NULL, &size);
    if (pty->pid == 0) {
        setenv("TERM", "xterm-256color", 1);
        setenv("LC_ALL", "C.UTF-8", 1);
        setenv("XDG_CONFIG_HOME", "/nonexistent", 1);    // measured as delivered
        execv(argv[0], argv);
        fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
        _exit(127);
    }
    pty->started = pty->pid > 0 && pthread_create(&pty->reader, NULL, read_all, pty) == 0;
    if (!pty->started) {
        fprintf(stderr, "pty: %s\n", strerror(errno));
        pty_close(pty);
        return NULL;
    }
    return pty;
}

// Whether it has ended; then it is reaped.
static bool ended(struct pty *pty)
{
    pty->reaped = pty->reaped || waitpid(pty->pid, &pty->status, WNOHANG) == pty->pid;
    return pty->reaped;
}

int pty_close(struct pty *pty)
{
    struct timespec moment = {.tv_nsec = 1000000};
    int status = -1;
    if (!pty) {
        return -1;
    }
    if (pty->pid > 0) {
        for (int32_t waited = 0; !ended(pty) && waited < END_MS; waited++) {
            if (waited == 0) {
                pty_send(pty, "q");
            }
            nanosleep(&moment, NULL);
        }
        if (!ended(pty)) {
            kill(pty->pid, SIGKILL);
            waitpid(pty->pid, &pty->status, 0);
        }
        status = WIFEXITED(pty->status) ? WEXITSTATUS(pty->status) : 128 + WTERMSIG(pty->status);
    }
    if (pty->started) {
        pthread_join(pty->reader, NULL);
    }
    if (pty->pid > 0) {
        close(pty->fd);
    }
    pthread_mutex_destroy(&pty->mutex);
    free(pty->kept);
    free(pty);
    return status;
}

pid_t pty_pid(const struct pty *pty)
{
    return pty->pid;
}

void pty_send(struct pty *pty, const char *keys)
{
    pthread_mutex_lock(&pty->mutex);
    pty->kept_bytes = 0;
    pty->kept[0] = 0;
    pthread_mutex_unlock(&pty->mutex);
    ssize_t written = write(pty->fd, keys, strlen(keys));
    (void)written;    // a program that is gone draws nothing, which is told
}

double pty_drawn(struct pty *pty, const char *text, double timeout_s)
{
    struct timespec moment = {.tv_nsec = 200000};
    for (double begin_s = pty_now_s(); pty_now_s() - begin_s < timeout_s; nanosleep(&moment, NULL)) {
        pthread_mutex_lock(&pty->mutex);
        bool found = pty->kept_bytes > 0 && (!text || memmem(pty->kept, pty->kept_bytes, text, strlen(text)));
        double last_s = pty->last_s;
        pthread_mutex_unlock(&pty->mutex);
        if (found && pty_now_s() - last_s > quiet_s) {
            return last_s;
        }
    }
    return -1;
}

int64_t pty_frames(struct pty *pty)
{
    pthread_mutex_lock(&pty->mutex);
    int64_t frames = pty->frames;
    pthread_mutex_unlock(&pty->mutex);
    return frames;
}

// The scheduler's own count in ns where the kernel has it, else clock ticks.
static double thread_cpu_s(pid_t pid, const char *thread)
{
    char path[96], line[512];
    unsigned long long ns = 0, user = 0, kernel = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%.20s/schedstat", (int)pid, thread);
    FILE *stream = fopen(path, "re");
    bool known = stream && fscanf(stream, "%llu", &ns) == 1;
    if (stream) {
        fclose(stream);
    }
    if (known) {
        return (double)ns * 1e-9;
    }
    snprintf(path, sizeof path, "/proc/%d/task/%.20s/stat", (int)pid, thread);
    stream = fopen(path, "re");
    const char *rest = stream && fgets(line, sizeof line, stream) ? strrchr(line, ')') : NULL;
    known = rest && sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &kernel) == 2;
    if (stream) {
        fclose(stream);
    }
    return known ? (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK) : -1;
}

double pty_cpu_s(const struct pty *pty, bool main_thread_only)
{
    char thread[32];
    clockid_t clock;
    struct timespec used;
    if (main_thread_only) {
        snprintf(thread, sizeof thread, "%d", (int)pty->pid);
        return thread_cpu_s(pty->pid, thread);
    }
    // Of threads that have ended, too.
    bool known = clock_getcpuclockid(pty->pid, &clock) == 0 && clock_gettime(clock, &used) == 0;
    return known ? (double)used.tv_sec + (double)used.tv_nsec * 1e-9 : -1;
}
