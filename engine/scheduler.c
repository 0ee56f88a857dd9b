// engine/scheduler.c - the policy.
//
// Requests stand in one order, that of submission: first those that run, then those that wait. Admission takes the
// first that waits, preemption returns the last that runs to the head of the queue, so the order never changes and the
// oldest request always gets on. A preempted request keeps its count of tokens drawn: they join its prompt.
#include "engine/scheduler.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "engine/status.h"

struct request {
    struct request *next;       // in the queue
    int64_t id;
    int32_t known_tokens;       // prompt and tokens drawn so far: all that can be put into the cache
    int32_t cached_tokens;      // of those, in the cache; always less than known_tokens while it runs
    int32_t open_tokens;        // still to draw
    int32_t prompt_tokens;      // known_tokens at admission: until they are cached, this is prefill
    int32_t slot;
    int32_t room_tokens;        // that its pages hold: while known_tokens are no more, they need not be asked
    // Of its prompt as submitted, which is what prefixes are found of.
    int32_t first_tokens;
    bool received;              // but for its last token it is cached as soon as it has its pages
    int32_t cuts[2];            // a chunk of prefill ends here, ascending, for a snapshot of the windows; 0: none
};

struct scheduler {
    struct scheduler_options options;
    struct kv_pages *pages;         // borrowed
    struct request **running;       // [max_seqs] oldest first; owned
    struct request **by_slot;       // [max_seqs] the same ones; what stands for a slot that is not in use is stale
    int32_t n_running, n_waiting;
    int32_t n_decoding;             // of the step planned last
    struct request *first, *last;   // waiting; owned
};

int scheduler_open(struct scheduler **out, const struct scheduler_options *options, struct kv_pages *pages)
{
    *out = NULL;
    if (options->max_seqs < 1 || options->max_step_tokens < 1) {
        return status_fail(-EINVAL, "%d sequences and %d tokens per step: expected at least one of each",
                           options->max_seqs, options->max_step_tokens);
    }
    struct scheduler *scheduler = calloc(1, sizeof *scheduler);
    struct request **running = calloc((size_t)options->max_seqs, sizeof *running);
    struct request **by_slot = calloc((size_t)options->max_seqs, sizeof *by_slot);
    if (!scheduler || !running || !by_slot) {
        free(scheduler);
        free(running);
        free(by_slot);
        return status_fail(-ENOMEM, "no memory for a schedule of %d sequences", options->max_seqs);
    }
    *scheduler = (struct scheduler){.options = *options, .pages = pages, .running = running, .by_slot = by_slot};
    int error = options->prefix.key ? kv_pages_keep(pages, options->prefix.n_snapshots) : 0;
    if (error) {
        scheduler_close(scheduler);
        return error;
    }
    *out = scheduler;
    return 0;
}

void scheduler_close(struct scheduler *scheduler)
{
    if (!scheduler) {
        return;
    }
    for (int32_t i = 0; i < scheduler->n_running; i++) {
        kv_pages_close_seq(scheduler->pages, scheduler->running[i]->slot);
        free(scheduler->running[i]);
    }
    while (scheduler->first) {
        struct request *next = scheduler->first->next;
        free(scheduler->first);
        scheduler->first = next;
    }
    free(scheduler->running);
    free(scheduler->by_slot);
    free(scheduler);
}

static int submit(struct scheduler *scheduler, int64_t request, int32_t prompt_tokens, int32_t max_output_tokens,
                  bool received)
{
    if (prompt_tokens < 1 || max_output_tokens < 1) {
        return status_fail(-EINVAL, "a request of %d prompt tokens and %d output tokens: expected at least one of each",
                           prompt_tokens, max_output_tokens);
    }
    int64_t tokens = (int64_t)prompt_tokens + max_output_tokens - 1;    // the last token drawn is never cached
    int32_t n_pages = kv_pages_free(scheduler->pages) + kv_pages_used(scheduler->pages);
    if (tokens > INT32_MAX || kv_pages_for(scheduler->pages, (int32_t)tokens) > n_pages) {
        return status_fail(-EINVAL, "a request of %d prompt and %d output tokens can never fit into a KV cache of %lld "
                           "tokens", prompt_tokens, max_output_tokens,
                           (long long)n_pages * kv_pages_page_tokens(scheduler->pages));
    }
    struct request *waiting = calloc(1, sizeof *waiting);
    if (!waiting) {
        return status_fail(-ENOMEM, "no memory for another request");
    }
    *waiting = (struct request){.id = request,
                                .known_tokens = prompt_tokens,
                                .open_tokens = max_output_tokens,
                                .first_tokens = prompt_tokens,
                                .received = received,
                                .slot = -1};
    if (scheduler->last) {
        scheduler->last->next = waiting;
    } else {
        scheduler->first = waiting;
    }
    scheduler->last = waiting;
    scheduler->n_waiting++;
    return 0;
}

int scheduler_submit(struct scheduler *scheduler, int64_t request, int32_t prompt_tokens, int32_t max_output_tokens)
{
    return submit(scheduler, request, prompt_tokens, max_output_tokens, false);
}

int scheduler_receive(struct scheduler *scheduler, int64_t request, int32_t known_tokens, int32_t max_output_tokens)
{
    return submit(scheduler, request, known_tokens, max_output_tokens, true);
}

// Returns the youngest running request to the head of the queue. It will be recomputed from its tokens so far.
static int64_t preempt_youngest(struct scheduler *scheduler)
{
    struct request *youngest = scheduler->running[--scheduler->n_running];
    kv_pages_close_seq(scheduler->pages, youngest->slot);
    youngest->slot = -1;
    youngest->cached_tokens = 0;
    youngest->received = false;
    youngest->next = scheduler->first;
    scheduler->first = youngest;
    scheduler->last = scheduler->last ? scheduler->last : youngest;
    scheduler->n_waiting++;
    return youngest->id;
}

static struct prefix find_prefix(const struct scheduler *scheduler, const struct request *request)
{
    return prefix_find(scheduler->pages, &scheduler->options.prefix, request->id, request->first_tokens,
                       request->known_tokens);
}

// Whether `pages` free pages are enough to start a request: for all its tokens, but those that others hold already.
static bool could_start(const struct scheduler *scheduler, const struct request *request, int64_t pages)
{
    int32_t all = kv_pages_for(scheduler->pages, request->known_tokens);
    bool finds = scheduler->options.prefix.key && !request->received;
    return all <= pages || (finds && all - find_prefix(scheduler, request).n_held <= pages);
}

// Lets the running request have the pages of `tokens` tokens, which are free.
static void grow(struct scheduler *scheduler, struct request *request, int32_t tokens)
{
    int32_t n_pages;
    int error = kv_pages_grow(scheduler->pages, request->slot, tokens);
    assert(!error);
    (void)error;
    kv_pages_table(scheduler->pages, request->slot, &n_pages);
    request->room_tokens = n_pages * kv_pages_page_tokens(scheduler->pages);
}

// Gives the request at the head of the queue its pages. What of them rests is taken over first, before it is forgotten.
static void take_pages(struct scheduler *scheduler, struct request *request, struct prefix *prefix)
{
    const struct prefix_options *options = &scheduler->options.prefix;
    *prefix = request->received ? (struct prefix){.snapshot = -1} : find_prefix(scheduler, request);
    request->cached_tokens = prefix_adopt(scheduler->pages, options, request->id, request->slot, prefix);
    grow(scheduler, request, request->known_tokens);
    if (request->received) {
        request->cached_tokens = request->known_tokens - 1;
    } else if (options->key && options->has_windows) {
        request->cuts[0] = prefix->branch_tokens;
        request->cuts[1] = prefix_end(scheduler->pages, options, request->first_tokens);
    }
}

// The request, which has a slot, runs as the youngest.
static void start(struct scheduler *scheduler, struct request *request)
{
    scheduler->running[scheduler->n_running++] = request;
    scheduler->by_slot[request->slot] = request;
}

// Starts the request at the head of the queue if a slot and the pages of all its tokens are free.
static struct request *admit(struct scheduler *scheduler, struct prefix *prefix)
{
    struct request *next = scheduler->first;
    if (!next || scheduler->n_running == scheduler->options.max_seqs ||
        !could_start(scheduler, next, kv_pages_free(scheduler->pages)) ||
        kv_pages_open_seq(scheduler->pages, &next->slot) != 0) {
        return NULL;
    }
    take_pages(scheduler, next, prefix);
    scheduler->first = next->next;
    scheduler->last = scheduler->first ? scheduler->last : NULL;
    scheduler->n_waiting--;
    next->next = NULL;
    next->prompt_tokens = next->known_tokens;
    start(scheduler, next);
    return next;
}

static bool decodes(const struct request *request)
{
    return request->cached_tokens >= request->prompt_tokens;
}

static void plan_rows(struct scheduled *out, const struct request *request, int32_t max_tokens)
{
    int32_t left = request->known_tokens - request->cached_tokens;
    int32_t tokens = left < max_tokens ? left : max_tokens;
    *out = (struct scheduled){
        .request = request->id,
        .slot = request->slot,
        .context_tokens = request->cached_tokens,
        .new_tokens = tokens,
        .wants_logits = tokens == left,
        .restore_from = -1,
        .snapshot_to = -1,
    };
}

// A chunk of a prompt, which ends where the windows are to be kept. There is no snapshot while all are about to be
// taken.
static void plan_chunk(struct scheduler *scheduler, struct scheduled *out, const struct request *request,
                       int32_t max_tokens)
{
    int32_t cut = 0;
    for (int i = 0; i < 2 && cut <= request->cached_tokens; i++) {
        cut = request->cuts[i];
    }
    cut -= request->cached_tokens;
    plan_rows(out, request, cut > 0 && cut < max_tokens ? cut : max_tokens);
    if (out->new_tokens == cut) {
        bool branch = cut + request->cached_tokens == request->cuts[0];
        out->snapshot_to = page_index_reserve(kv_pages_index(scheduler->pages), branch);
    }
}

int32_t scheduler_next(struct scheduler *scheduler, struct scheduled *out, int64_t *preempted, int32_t *n_preempted)
{
    int32_t n = 0, tokens_left = scheduler->options.max_step_tokens, first_prompt = scheduler->options.max_seqs;
    *n_preempted = 0;
    // Pass 1: sequences that decode, oldest first. Who lacks a page takes it from the youngest, which may be itself.
    for (int32_t i = 0; i < scheduler->n_running && tokens_left > 0; i++) {
        struct request *request = scheduler->running[i];
        if (!decodes(request)) {
            first_prompt = i < first_prompt ? i : first_prompt;
            continue;
        }
        bool lacks = request->known_tokens > request->room_tokens;
        while (lacks && i < scheduler->n_running &&
               kv_pages_needed(scheduler->pages, request->slot, request->known_tokens) >
                   kv_pages_free(scheduler->pages)) {
            preempted[(*n_preempted)++] = preempt_youngest(scheduler);
        }
        if (i < scheduler->n_running) {
            if (lacks) {
                grow(scheduler, request, request->known_tokens);
            }
            plan_rows(&out[n++], request, 1);
            tokens_left--;
        }
    }
    scheduler->n_decoding = n;
    // Pass 2: prompts that run, oldest first; their pages are theirs since admission.
    for (int32_t i = first_prompt; i < scheduler->n_running && tokens_left > 0; i++) {
        if (!decodes(scheduler->running[i])) {
            plan_chunk(scheduler, &out[n], scheduler->running[i], tokens_left);
            tokens_left -= out[n++].new_tokens;
        }
    }
    // Pass 3: new prompts. Who was just preempted cannot come back here: its pages went to an older sequence, or were
    // too few for its own next token; unless it held copies of pages that others hold too, and now begins with theirs.
    while (tokens_left > 0) {
        struct prefix prefix;
        const struct request *request = admit(scheduler, &prefix);
        if (!request) {
            break;
        }
        plan_chunk(scheduler, &out[n], request, tokens_left);
        out[n].reused_tokens = prefix.n_pages * kv_pages_page_tokens(scheduler->pages);
        out[n].restore_from = prefix.snapshot;
        tokens_left -= out[n++].new_tokens;
    }
    return n;
}

int scheduler_fork(struct scheduler *scheduler, int64_t of, int64_t request, int32_t *from, int32_t *to)
{
    const struct request *original = NULL;
    for (int32_t i = 0; i < scheduler->n_running && !original; i++) {
        original = scheduler->running[i]->id == of ? scheduler->running[i] : NULL;
    }
    if (!original || !decodes(original)) {
        return status_fail(-EINVAL, "request %lld does not decode: it cannot be forked", (long long)of);
    }
    int32_t needed = kv_pages_for(scheduler->pages, original->cached_tokens), there = kv_pages_free(scheduler->pages);
    if (scheduler->n_waiting > 0 || scheduler->n_running == scheduler->options.max_seqs || needed > there) {
        return status_fail(-EAGAIN, "no room to fork request %lld: %d of %d sequences run, %d wait, %d pages are free "
                           "and %d needed", (long long)of, scheduler->n_running, scheduler->options.max_seqs,
                           scheduler->n_waiting, there, needed);
    }
    struct request *twin = malloc(sizeof *twin);
    if (!twin) {
        return status_fail(-ENOMEM, "no memory for another request");
    }
    *twin = *original;
    twin->id = request;
    int error = kv_pages_open_seq(scheduler->pages, &twin->slot);
    assert(!error);    // slots were counted above, and pages too
    (void)error;
    grow(scheduler, twin, twin->cached_tokens);
    start(scheduler, twin);
    *from = original->slot;
    *to = twin->slot;
    return 0;
}

// Lets go of those that have nothing left to draw. Returns how many.
static int32_t retire(struct scheduler *scheduler, int64_t *finished)
{
    int32_t kept = 0, n_finished = 0;
    for (int32_t i = 0; i < scheduler->n_running; i++) {
        struct request *request = scheduler->running[i];
        if (request->open_tokens > 0) {
            scheduler->running[kept++] = request;
            continue;
        }
        finished[n_finished++] = request->id;
        kv_pages_close_seq(scheduler->pages, request->slot);
        free(request);
    }
    scheduler->n_running = kept;
    return n_finished;
}

void scheduler_complete(struct scheduler *scheduler, const struct scheduled *done, const bool *ended, int32_t n,
                        int64_t *finished, int32_t *n_finished)
{
    bool some_ended = false;
    for (int32_t i = 0; i < n; i++) {
        struct request *request = scheduler->by_slot[done[i].slot];
        assert(request->id == done[i].request && request->cached_tokens == done[i].context_tokens);
        request->cached_tokens += done[i].new_tokens;
        if (done[i].context_tokens < request->first_tokens) {
            prefix_keep(scheduler->pages, &scheduler->options.prefix, request->id, request->slot,
                        done[i].context_tokens, request->cached_tokens, request->first_tokens, done[i].snapshot_to);
        }
        if (done[i].wants_logits) {
            request->known_tokens++;
            request->open_tokens--;
        }
        if (ended[i]) {
            request->open_tokens = 0;
        }
        some_ended = some_ended || request->open_tokens == 0;
    }
    *n_finished = some_ended ? retire(scheduler, finished) : 0;
}

// Pages that all running sequences lack for their next `steps` rows.
static int64_t pages_ahead(const struct scheduler *scheduler, int32_t steps)
{
    int64_t needed = 0;
    for (int32_t i = 0; i < scheduler->n_running; i++) {
        const struct request *request = scheduler->running[i];
        if (request->known_tokens + steps - 1 > request->room_tokens) {
            needed += kv_pages_needed(scheduler->pages, request->slot, request->known_tokens + steps - 1);
        }
    }
    return needed;
}

// Whether the pages for so many steps are free. Most often there is plenty, which a bound tells.
static bool lasts(const struct scheduler *scheduler, int32_t steps)
{
    int64_t free_pages = kv_pages_free(scheduler->pages);
    int64_t most = (int64_t)scheduler->n_running * (kv_pages_for(scheduler->pages, steps) + 1);
    return most <= free_pages || pages_ahead(scheduler, steps) <= free_pages;
}

int32_t scheduler_steady(const struct scheduler *scheduler, struct scheduled *out, int32_t *n)
{
    const struct request *first = scheduler->first;
    bool room = scheduler->n_running < scheduler->options.max_seqs &&
                scheduler->n_running < scheduler->options.max_step_tokens;
    *n = 0;
    if (scheduler->n_running == 0 || scheduler->n_running > scheduler->options.max_step_tokens) {
        return 0;
    }
    // What most often stands against it is seen without a look at everyone: the youngest is a prompt, or who waits
    // could start even if everybody took a page.
    int64_t spare_pages = (int64_t)kv_pages_free(scheduler->pages) - scheduler->n_running;
    if (!decodes(scheduler->running[scheduler->n_running - 1]) ||
        (first && room && could_start(scheduler, first, spare_pages))) {
        return 0;
    }
    int32_t steps = INT32_MAX;
    for (int32_t i = 0; i < scheduler->n_running; i++) {
        const struct request *request = scheduler->running[i];
        if (!decodes(request)) {
            return 0;
        }
        steps = request->open_tokens < steps ? request->open_tokens : steps;
        plan_rows(&out[i], request, 1);
    }
    // Free pages only become fewer, and so do known ones: who cannot start after the first step cannot start later.
    if (first && room && could_start(scheduler, first, kv_pages_free(scheduler->pages) - pages_ahead(scheduler, 1))) {
        return 0;
    }
    if (!lasts(scheduler, steps)) {
        int32_t enough = 0, short_of = steps;
        while (short_of - enough > 1) {
            int32_t middle = enough + (short_of - enough) / 2;
            bool fits = lasts(scheduler, middle);
            enough = fits ? middle : enough;
            short_of = fits ? short_of : middle;
        }
        steps = enough;
    }
    *n = steps > 0 ? scheduler->n_running : 0;
    return steps;
}

void scheduler_skip(struct scheduler *scheduler, int32_t steps, int64_t *finished, int32_t *n_finished)
{
    bool some_ended = false;
    for (int32_t i = 0; i < scheduler->n_running; i++) {
        struct request *request = scheduler->running[i];
        assert(decodes(request) && steps >= 1 && steps <= request->open_tokens);
        if (request->known_tokens + steps - 1 > request->room_tokens) {
            grow(scheduler, request, request->known_tokens + steps - 1);    // scheduler_steady counted them
        }
        request->cached_tokens += steps;
        request->known_tokens += steps;
        request->open_tokens -= steps;
        some_ended = some_ended || request->open_tokens == 0;
    }
    *n_finished = some_ended ? retire(scheduler, finished) : 0;
}

int32_t scheduler_running(const struct scheduler *scheduler)
{
    return scheduler->n_running;
}

int32_t scheduler_waiting(const struct scheduler *scheduler)
{
    return scheduler->n_waiting;
}

int32_t scheduler_decoding(const struct scheduler *scheduler)
{
    return scheduler->n_decoding;
}
