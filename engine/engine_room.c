// engine/engine_room.c - whether an engine has room: what is refused before work starts, with what would fit instead.
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/engine_state.h"
#include "engine/status.h"

// Of a device's memory, one part in so many stays free for what the driver and cuBLASLt take later.
enum { SPARE_SHARE = 64 };

static double gib(int64_t bytes)
{
    return (double)bytes / 0x1p30;
}

// What a device, or else this machine, has, and what the engine's parts take of it.
struct room {
    int64_t free_bytes, total_bytes, spare_bytes;
    bool host;                        // nobody knows what is free of it: all is taken for free
    int64_t weight_bytes;             // that are yet to be brought
    int64_t sequence_bytes;           // a sequence's window rings
    int64_t page_bytes;               // of all layers
    int32_t max_seqs;                 // snapshots included
    int32_t page_tokens;
};

// Linux hands out more than there is and ends a process that uses it. INT64_MAX: unknown.
static int64_t physical_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGESIZE);
    return pages > 0 && bytes > 0 ? (int64_t)pages * bytes : INT64_MAX;
}

static void say_room(char *out, size_t size, const struct room *room)
{
    if (room->host) {
        snprintf(out, size, "this machine has %.2f GiB", gib(room->total_bytes));
    } else {
        snprintf(out, size, "%.2f of %.2f GiB are free", gib(room->free_bytes), gib(room->total_bytes));
    }
}

static int measure_room(struct room *room, const struct engine *engine, bool weights_to_come)
{
    const struct backend *backend = engine->backend;
    const struct plan *plan = &engine->plan;
    // A backend whose activations are 2 bytes keeps its weights so.
    int64_t weights = plan_weight_bytes(plan);
    weights = backend->activation_bytes == 2 ? weights / dtype_bytes(plan->weight_dtype) * 2 : weights;
    room->host = !backend->memory;
    int error = room->host ? 0 : backend->memory(engine->context, &room->free_bytes, &room->total_bytes);
    if (room->host) {
        room->free_bytes = room->total_bytes = physical_bytes();
    }
    room->spare_bytes = room->total_bytes / SPARE_SHARE;
    room->weight_bytes = weights_to_come ? weights : 0;
    room->sequence_bytes = plan_kv_bytes_per_sequence(plan);
    room->page_bytes = kv_cache_page_bytes(plan);
    room->max_seqs = engine->options.max_seqs + engine->options.snapshots;
    room->page_tokens = plan->page_tokens;
    return error;
}

// Pages that fit beside everything else and `spare_bytes`; negative: not even that fits.
static int64_t pages_in(const struct room *room, int64_t seqs, int64_t spare_bytes)
{
    int64_t left = room->free_bytes - spare_bytes - room->weight_bytes - room->sequence_bytes * seqs;
    return left < 0 ? -1 : left / room->page_bytes;
}

int engine_check_room(const struct engine *engine, int64_t n_pages)
{
    struct room room = {0};
    int64_t context = engine->options.max_context;
    char there[64];
    int error = measure_room(&room, engine, true);
    // What is to be spared is so in what is advised: who asks for all that is there may have it.
    if (error || pages_in(&room, room.max_seqs, 0) >= n_pages) {
        return error;
    }
    int64_t of_sequence = (context - 1) / room.page_tokens + 1, alone = pages_in(&room, 1, room.spare_bytes);
    int64_t left = room.free_bytes - room.spare_bytes - room.weight_bytes;
    say_room(there, sizeof there, &room);
    if (alone < 1) {
        return status_fail(-ENOMEM, "no memory for weights of %.2f GiB and a KV cache: %s", gib(room.weight_bytes),
                           there);
    }
    int64_t seqs = left / (room.sequence_bytes + of_sequence * room.page_bytes);
    char fitting[128];
    if (seqs > 0) {
        snprintf(fitting, sizeof fitting, "%lld sequences of %lld tokens", (long long)seqs, (long long)context);
    } else {
        snprintf(fitting, sizeof fitting, "one sequence of %lld tokens", (long long)alone * room.page_tokens);
    }
    return status_fail(-ENOMEM, "no memory for a KV cache of %lld tokens with the windows of %d sequences (%.2f GiB) "
                       "beside weights of %.2f GiB: %s; %s would fit",
                       (long long)n_pages * room.page_tokens, room.max_seqs,
                       gib(n_pages * room.page_bytes + room.sequence_bytes * room.max_seqs), gib(room.weight_bytes),
                       there, fitting);
}

int engine_pages_that_fit(int32_t *n_pages, const struct engine *engine)
{
    struct room room = {0};
    if (!engine->backend->memory) {
        return status_fail(-EINVAL, "backend '%s' has no memory of its own to be taken whole; give the cache a size",
                           engine->backend->name);
    }
    int error = measure_room(&room, engine, false);
    if (error) {
        return error;
    }
    int64_t pages = pages_in(&room, room.max_seqs, room.spare_bytes);
    int64_t most = (INT32_MAX - room.page_tokens) / room.page_tokens;
    *n_pages = (int32_t)(pages < most ? pages : most);
    if (pages > 0) {
        return 0;
    }
    return status_fail(-ENOMEM, "no memory for a KV cache: %.2f of %.2f GiB are free beside the weights, and the "
                       "windows of %d sequences take %.2f", gib(room.free_bytes), gib(room.total_bytes), room.max_seqs,
                       gib(room.sequence_bytes * room.max_seqs));
}

int engine_open_cache(struct engine *engine, int32_t n_pages)
{
    const struct plan *plan = &engine->plan;
    int32_t max_seqs = engine->options.max_seqs + engine->options.snapshots;    // rings
    int error = kv_cache_open(&engine->cache, engine->backend, engine->context, plan, n_pages, max_seqs);
    if (error != -ENOMEM) {
        return error;
    }
    int32_t fitting = n_pages / 2;
    struct kv_cache *smaller = NULL;
    while (fitting > 0 && kv_cache_open(&smaller, engine->backend, engine->context, plan, fitting, max_seqs) != 0) {
        fitting /= 2;
    }
    kv_cache_close(smaller);
    double bytes = (double)plan_kv_bytes_per_token(plan) * plan->page_tokens * n_pages +
                   (double)plan_kv_bytes_per_sequence(plan) * max_seqs;
    return status_fail(-ENOMEM, "no memory for a cache of %lld tokens and %d sequences (%.0f MiB): %lld tokens would "
                       "fit; lower the context, the sequences or the cache size",
                       (long long)n_pages * plan->page_tokens, max_seqs, bytes / 0x1p20,
                       (long long)fitting * plan->page_tokens);
}
