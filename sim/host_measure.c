// sim/host_measure.c - this machine as a device: what its threads read and multiply per second, all at once.
//
// Threads are pinned to the processors that the process may use and start each pass together. Bandwidth: every thread
// reads its own part of a working set over and over with the widest loads there are; sizes go from the private caches
// to far beyond the last one. Rates: independent chains of multiply-adds in registers. Each figure is the best of many
// short passes, since a neighbour can only slow a pass down: it is what the machine can do, not what it does on
// average. Not measured: links, prices, fp8 (processors here have no such arithmetic).
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "engine/status.h"
#include "sim/device.h"
#include "sim/host_kernels.h"

enum {
    MAX_THREADS = 1024,
    PASS_BYTES = 32 << 20,    // a thread reads at least this much per timed pass: far above the cost of starting it
    FMA_ROUNDS = 1 << 16,     // a pass of 12 or 16 chains lasts some hundred microseconds
    LAUNCH_ROUNDS = 64,
};
static const double BANDWIDTH_S = 0.08, MEMORY_S = 0.25, FMA_S = 0.08, LAUNCH_S = 0.02;    // time spent on each figure
static const size_t LEAST_MEMORY_BYTES = (size_t)256 << 20;

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// What all threads share. Thread 0 takes the time and decides whether another pass follows; the others obey.
struct team {
    struct host_kernels kernels;
    int32_t n;
    size_t cpus[MAX_THREADS];
    pthread_mutex_t gate;    // held until all threads exist, so that none waits for one that never comes
    bool abandoned;
    pthread_barrier_t barrier;
    atomic_int arrived, meeting;          // of fork_join
    struct member *members;               // [n]
    unsigned char *memory;                // [n * share_bytes]
    size_t share_bytes;                   // each thread's part
    bool again;                           // written by thread 0 between two barriers
    double launch_s;                      // shortest round of fork_join, by thread 0
    struct device *out;                   // written by thread 0
    size_t sizes[DEVICE_CURVE_POINTS];    // [n_sizes] working sets in caches, ascending
    int32_t n_sizes;
};

struct member {
    struct team *team;
    int32_t index;
    pthread_t thread;
    double from_s, to_s;    // of the present pass
    uint64_t read;          // results that nobody needs, so that the work is done
    volatile float sink;
};

// From the first thread's start to the last one's end: a thread that was held up must not look like a fast pass.
static double pass_s(const struct team *team)
{
    double from = team->members[0].from_s, to = team->members[0].to_s;
    for (int32_t i = 1; i < team->n; i++) {
        from = team->members[i].from_s < from ? team->members[i].from_s : from;
        to = team->members[i].to_s > to ? team->members[i].to_s : to;
    }
    return to - from;
}

// Runs `work` in all threads at once, again and again for `budget_s`. Returns the seconds of the best pass in thread 0,
// nothing of use elsewhere.
static double best_pass(struct member *member, double budget_s, void (*work)(struct member *, const void *),
                        const void *arg)
{
    struct team *team = member->team;
    double best = 1e30, begin = now_s();
    do {
        pthread_barrier_wait(&team->barrier);
        member->from_s = now_s();
        work(member, arg);
        member->to_s = now_s();
        pthread_barrier_wait(&team->barrier);
        if (member->index == 0) {
            double seconds = pass_s(team);
            best = seconds < best ? seconds : best;
            team->again = now_s() - begin < budget_s;
        }
        pthread_barrier_wait(&team->barrier);
    } while (team->again);
    return best;
}

// How often a share of that size is read in one pass.
static size_t repeats(size_t bytes)
{
    return bytes >= PASS_BYTES ? 1 : (PASS_BYTES + bytes - 1) / bytes;
}

static void read_share(struct member *member, const void *arg)
{
    size_t bytes = *(const size_t *)arg;
    const unsigned char *share = member->team->memory + (size_t)member->index * member->team->share_bytes;
    for (size_t i = 0; i < repeats(bytes); i++) {
        member->read ^= member->team->kernels.read(share, bytes);
    }
}

static double measure_read(struct member *member, size_t bytes, double budget_s)
{
    double seconds = best_pass(member, budget_s, read_share, &bytes);
    return (double)repeats(bytes) * (double)bytes * (double)member->team->n / seconds;
}

struct fma_work {
    double (*run)(int rounds, volatile float *sink);
};

static void run_fma(struct member *member, const void *arg)
{
    ((const struct fma_work *)arg)->run(FMA_ROUNDS, &member->sink);
}

static double measure_fma(struct member *member, double (*run)(int rounds, volatile float *sink))
{
    struct fma_work work = {run};
    double flops = run(1, &member->sink);
    return flops * FMA_ROUNDS * (double)member->team->n / best_pass(member, FMA_S, run_fma, &work);
}

// All threads wait for each other, spinning as a pool of workers does between two operators. Longer than a time slice
// nobody spins: with more threads than processors the last one could not arrive.
static void meet(struct team *team)
{
    int meeting = atomic_load(&team->meeting);
    if (atomic_fetch_add(&team->arrived, 1) + 1 == team->n) {
        atomic_store(&team->arrived, 0);
        atomic_store(&team->meeting, meeting + 1);
        return;
    }
    for (int spins = 0; atomic_load(&team->meeting) == meeting; spins++) {
        if (spins > 10000) {
            sched_yield();
        }
    }
}

// An empty operator: all threads start together and meet again. The shortest round counts: a pass always holds one in
// which a thread lost its processor.
static void fork_join(struct member *member, const void *arg)
{
    (void)arg;
    struct team *team = member->team;
    for (int i = 0; i < LAUNCH_ROUNDS; i++) {
        double begin_s = now_s();
        meet(team);
        meet(team);
        double round_s = now_s() - begin_s;
        if (member->index == 0 && round_s < team->launch_s) {
            team->launch_s = round_s;
        }
    }
}

static void set_figure(struct device_figure *figure, const struct team *team, double value, const char *how)
{
    char host[96];
    device_describe_host(host, sizeof host);
    figure->value = value;
    figure->provenance = PROVENANCE_MEASURED;
    snprintf(figure->source, sizeof figure->source, "%s: %d thread%s of %s", how, team->n, team->n == 1 ? "" : "s",
             host);
}

static void measure_all(struct member *member)
{
    struct team *team = member->team;
    double curve[DEVICE_CURVE_POINTS] = {0};
    for (int32_t i = 0; i < team->n_sizes; i++) {
        curve[i] = measure_read(member, team->sizes[i], BANDWIDTH_S);
    }
    double memory = measure_read(member, team->share_bytes, MEMORY_S);
    double f32 = measure_fma(member, team->kernels.fma_f32);
    double bf16 = team->kernels.fma_bf16 ? measure_fma(member, team->kernels.fma_bf16) : f32;
    best_pass(member, LAUNCH_S, fork_join, NULL);
    if (member->index != 0) {
        return;
    }
    struct device *out = team->out;
    set_figure(&out->bytes_per_s, team, memory, "read from memory");
    // A pass that a neighbour slowed down must not make a smaller working set look slower than a larger one.
    for (int32_t i = team->n_sizes - 1; i >= 0; i--) {
        memory = curve[i] > memory ? curve[i] : memory;
        out->curve_bytes[i] = (double)team->sizes[i] * (double)team->n;
        out->curve_bytes_per_s[i] = memory;
    }
    out->n_curve = team->n_sizes;
    set_figure(&out->flops_per_s[DTYPE_F32], team, f32, "multiply-adds in registers");
    set_figure(&out->flops_per_s[DTYPE_BF16], team, bf16,
               team->kernels.fma_bf16 ? "bf16 products in registers" : "bf16 widened to f32");
    set_figure(&out->launch_s, team, team->launch_s, "empty start and join");
}

static void *member_main(void *arg)
{
    struct member *member = arg;
    struct team *team = member->team;
    pthread_mutex_lock(&team->gate);
    bool abandoned = team->abandoned;
    pthread_mutex_unlock(&team->gate);
    if (abandoned) {
        return NULL;
    }
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(team->cpus[member->index], &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);    // where it fails the threads only wander
    member->sink = 1e-3f;
    // Each thread touches its own share first, so that the pages lie near it.
    memset(team->memory + (size_t)member->index * team->share_bytes, member->index + 1, team->share_bytes);
    measure_all(member);
    return NULL;
}

static size_t positive_sysconf(int name, size_t otherwise)
{
    long value = sysconf(name);
    return value > 0 ? (size_t)value : otherwise;
}

// Physical memory, or the control group's limit where that is less.
static double memory_limit_bytes(void)
{
    double bytes = (double)positive_sysconf(_SC_PHYS_PAGES, 0) * (double)positive_sysconf(_SC_PAGESIZE, 4096);
    static const char *const limits[] = {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
    for (int i = 0; i < 2; i++) {
        FILE *stream = fopen(limits[i], "r");
        double limit;
        if (stream && fscanf(stream, "%lf", &limit) == 1 && limit > 0 && limit < bytes) {
            bytes = limit;
        }
        if (stream) {
            fclose(stream);
        }
    }
    return bytes;
}

static int list_cpus(struct team *team, int32_t threads)
{
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        CPU_SET(0, &allowed);
    }
    int32_t n = 0;
    for (size_t cpu = 0; cpu < CPU_SETSIZE && n < MAX_THREADS; cpu++) {
        if (CPU_ISSET(cpu, &allowed)) {
            team->cpus[n++] = cpu;
        }
    }
    if (threads < 0 || threads > MAX_THREADS) {
        return status_fail(-EINVAL, "threads %d: expected 0 (all) to %d", threads, MAX_THREADS);
    }
    team->n = threads ? threads : n;
    for (int32_t i = n; i < team->n; i++) {
        team->cpus[i] = team->cpus[i % n];    // more threads than processors share them
    }
    return 0;
}

// One line of what the system says of a cache of the first processor; "" if it does not.
static void read_cache_line(char *line, int bytes, int index, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", index, name);
    FILE *stream = fopen(path, "r");
    if (!stream || !fgets(line, bytes, stream)) {
        line[0] = 0;
    }
    if (stream) {
        fclose(stream);
    }
}

// How much of the cache of that level a thread has to itself when all run; `otherwise` where the system does not say.
// sysconf() is no help: on virtual machines it can name many times what there is.
static size_t cache_share(int level, size_t otherwise)
{
    for (int index = 0; index < 8; index++) {
        char line[512];
        read_cache_line(line, sizeof line, index, "level");
        if (atoi(line) != level) {
            continue;
        }
        read_cache_line(line, sizeof line, index, "size");    // "1024K"
        size_t bytes = strtoul(line, NULL, 10) << 10;
        read_cache_line(line, sizeof line, index, "shared_cpu_map");    // "ffff,00000003"
        size_t sharers = 0;
        for (const char *c = line; *c; c++) {
            char digit[2] = {*c, 0};
            sharers += (size_t)__builtin_popcountl(strtoul(digit, NULL, 16));
        }
        return bytes && sharers ? bytes / sharers : otherwise;
    }
    return otherwise;
}

// Working sets per thread, from a quarter of the private cache to three quarters of the last one, then memory: beyond
// eight times the last cache little of it can be left over from the pass before.
static void choose_sizes(struct team *team)
{
    size_t l2 = cache_share(2, 0), l3 = cache_share(3, 0), n = (size_t)team->n;
    size_t wanted[] = {l2 / 4, l2 / 2, l2 * 3 / 4, l3 / 4, l3 / 2, l3 * 3 / 4};
    if (!l2 || !l3) {    // nothing known of the caches: a series that finds their edges by itself
        static const size_t series[] = {128 << 10, 512 << 10, 2 << 20, 4 << 20, 8 << 20, 16 << 20};
        memcpy(wanted, series, sizeof wanted);
        l3 = 32 << 20;
    }
    size_t last = 0;
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        size_t bytes = wanted[i] & ~(size_t)511;
        if (bytes > last) {
            team->sizes[team->n_sizes++] = last = bytes;
        }
    }
    size_t total = 8 * l3 * n > LEAST_MEMORY_BYTES ? 8 * l3 * n : LEAST_MEMORY_BYTES;
    size_t most = (size_t)(memory_limit_bytes() / 8);    // a small machine is not to be filled for a measurement
    total = most > 0 && most < total ? most : total;
    team->share_bytes = (total / n + 4095) & ~(size_t)4095;
    team->share_bytes = team->share_bytes > last ? team->share_bytes : (last + 4095) & ~(size_t)4095;
}

// Starts all threads or none: they wait at the gate until the last one exists.
static int start_and_join(struct team *team)
{
    if (pthread_barrier_init(&team->barrier, NULL, (unsigned)team->n) != 0) {
        return status_fail(-ENOMEM, "host: no barrier for %d threads", team->n);
    }
    pthread_mutex_init(&team->gate, NULL);
    pthread_mutex_lock(&team->gate);
    int32_t started = 0;
    int error = 0;
    for (; !error && started < team->n; started++) {
        team->members[started].team = team;
        team->members[started].index = started;
        error = pthread_create(&team->members[started].thread, NULL, member_main, &team->members[started]);
    }
    if (error) {
        started--;
        team->abandoned = true;
        status_fail(-error, "host: cannot start thread %d of %d: %s", started + 1, team->n, strerror(error));
    }
    pthread_mutex_unlock(&team->gate);
    for (int32_t i = 0; i < started; i++) {
        pthread_join(team->members[i].thread, NULL);
    }
    pthread_mutex_destroy(&team->gate);
    pthread_barrier_destroy(&team->barrier);
    return -error;
}

static int run_team(struct team *team)
{
    int error;
    size_t bytes = (size_t)team->n * team->share_bytes;
    team->launch_s = 1;    // above any that is measured
    team->members = calloc((size_t)team->n, sizeof *team->members);
    team->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!team->members || team->memory == MAP_FAILED) {
        error = status_fail(-ENOMEM, "host: no memory for a working set of %zu bytes", bytes);
    } else {
        madvise(team->memory, bytes, MADV_HUGEPAGE);    // advice: without it translation misses cost some bandwidth
        error = start_and_join(team);
    }
    if (team->memory != MAP_FAILED) {
        munmap(team->memory, bytes);
    }
    free(team->members);
    return error;
}

void device_describe_host(char *out, size_t bytes)
{
    char name[64] = "unknown processor", line[256];
    FILE *stream = fopen("/proc/cpuinfo", "r");
    while (stream && fgets(line, sizeof line, stream)) {
        if (sscanf(line, "model name : %63[^\n]", name) == 1) {
            break;
        }
    }
    if (stream) {
        fclose(stream);
    }
    snprintf(out, bytes, "%s, %s", name, host_kernels_choose().isa);
}

int device_measure_host(struct device *out, int32_t threads)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct device cached;
    static int32_t cached_threads = -1;
    struct device measured = {.name = "host"};
    struct team *team = calloc(1, sizeof *team);
    if (!team) {
        return status_fail(-ENOMEM, "host: no memory");
    }
    pthread_mutex_lock(&lock);
    int error = list_cpus(team, threads);
    if (!error && cached_threads != team->n) {
        team->kernels = host_kernels_choose();
        team->out = &measured;
        choose_sizes(team);
        error = run_team(team);
        if (!error) {
            measured.threads = team->n;
            measured.memory_bytes = (struct device_figure){memory_limit_bytes(), PROVENANCE_MEASURED,
                                                           "physical memory, or the control group's limit"};
            cached = measured;
            cached_threads = team->n;
        }
    }
    if (!error) {
        *out = cached;
    }
    pthread_mutex_unlock(&lock);
    free(team);
    return error;
}
