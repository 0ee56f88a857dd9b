// engine/cuda/step.c - a step around its operators: the batch's way to the device, marks, recordings, and what comes
// back.
//
// The batch's arrays travel in one copy from pinned memory; page numbers only when they have changed since the last
// step. A step that decodes runs eagerly the first time its shape is seen (what is loaded or chosen at first use must
// not happen inside a capture), is captured into a graph the second time, and replayed from then on. Kernels read
// lengths, page numbers and tokens from the mirror, whose place does not change, so a graph stays right while contexts
// grow. Marks are events; inside a graph they are nodes, so a step with marks is a graph of its own, and its kernels
// follow each other less closely. A step in pieces is several graphs, launched one after the other.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cuda/context.h"
#include "engine/sampler.h"
#include "engine/status.h"

// ---------------------------------------------------------------------------------------------------------------------
// The batch

static void forget_kind(struct recording *recording, enum record kind)
{
    for (int piece = 0; piece < MAX_PIECES; piece++) {
        if (recording->exec[kind][piece]) {
            cudaGraphExecDestroy(recording->exec[kind][piece]);
        }
        recording->exec[kind][piece] = NULL;
    }
}

static void forget_recording(struct recording *recording)
{
    for (int kind = 0; kind < RECORD_KINDS; kind++) {
        forget_kind(recording, (enum record)kind);
    }
    *recording = (struct recording){0};
}

void cuda_step_close(struct backend_context *c)
{
    for (int32_t i = 0; i < c->n_recordings; i++) {
        forget_recording(&c->recordings[i]);
    }
    c->n_recordings = 0;
    for (int32_t i = 0; i < c->n_marks; i++) {
        cudaEventDestroy(c->marks[i]);
    }
    free(c->marks);
    c->marks = NULL;
    c->n_marks = 0;
}

// Makes room for the batch. Recordings point into the mirror: they go when it moves.
static int grow_mirror(struct backend_context *c, int64_t wanted)
{
    if (wanted <= c->mirror_capacity) {
        return 0;
    }
    while (c->n_recordings > 0) {
        forget_recording(&c->recordings[--c->n_recordings]);
    }
    cudaFree(c->mirror_device);
    cudaFreeHost(c->mirror_host);
    c->mirror_device = c->mirror_host = NULL;
    c->mirror_capacity = c->mirrored_pages = 0;
    int error = cuda_take((void **)&c->mirror_device, wanted * (int64_t)sizeof(int32_t), "page tables");
    error = error ? error
                  : cuda_status(cudaMallocHost((void **)&c->mirror_host, (size_t)wanted * sizeof(int32_t)),
                                "pinned memory");
    c->mirror_capacity = error ? 0 : wanted;
    return error;
}

// Appends n integers to the host side of the mirror; returns where they will lie on the device.
static int32_t *reflect(struct backend_context *c, int64_t *at, const int32_t *from, int64_t n)
{
    int32_t *device = c->mirror_device + *at;
    memcpy(c->mirror_host + *at, from, (size_t)n * sizeof *from);
    *at += n;
    return device;
}

static int send(struct backend_context *c, int64_t from, int64_t to)
{
    return cuda_status(cudaMemcpyAsync(c->mirror_device + from, c->mirror_host + from,
                                       (size_t)(to - from) * sizeof(int32_t), cudaMemcpyHostToDevice, c->stream),
                       "batch");
}

int cuda_begin_step(struct backend_context *c, const struct batch *batch)
{
    int64_t n = batch->all.n, last = batch->last.n, seqs = batch->n_seqs, at = 0;
    int64_t pages = seqs * batch->max_pages, wanted = 3 * n + 3 * last + pages + 4 * seqs;
    int error = cuda_status(cudaSetDevice(c->device), "choosing the device");
    error = error ? error : grow_mirror(c, wanted > c->mirror_capacity ? wanted + 6 * (int64_t)c->max_rows : wanted);
    if (error) {
        return error;
    }
    c->batch = batch;
    c->draw = (struct op_sample){0};
    c->prepared = (struct prepared){0};
    c->heads_wait = c->has_maxima = false;
    c->ring_written = NULL;
    c->steps++;
    bool known =
        pages == c->mirrored_pages && memcmp(c->mirror_host, batch->pages, (size_t)pages * sizeof *batch->pages) == 0;
    c->mirror.pages = reflect(c, &at, batch->pages, pages);
    int64_t sent = known ? at : 0;
    c->mirrored_pages = pages;
    c->mirror.token = reflect(c, &at, batch->all.token, n);
    c->mirror.seq = reflect(c, &at, batch->all.seq, n);
    c->mirror.position = reflect(c, &at, batch->all.position, n);
    c->mirror.last_seq = reflect(c, &at, batch->last.seq, last);
    c->mirror.last_position = reflect(c, &at, batch->last.position, last);
    c->mirror.last_source = reflect(c, &at, batch->last.source, last);
    int32_t **const of_seq[] = {&c->mirror.slot, &c->mirror.first_row, &c->mirror.context, &c->mirror.n_rows};
    for (int i = 0; i < 4; i++) {
        *of_seq[i] = c->mirror_device + at + i * seqs;
    }
    for (int64_t s = 0; s < seqs; s++) {
        const struct batch_seq *seq = &batch->seqs[s];
        c->mirror_host[at + s] = seq->slot;
        c->mirror_host[at + seqs + s] = seq->first_row;
        c->mirror_host[at + 2 * seqs + s] = seq->context_tokens;
        c->mirror_host[at + 3 * seqs + s] = seq->n_rows;
    }
    return send(c, sent, wanted);
}

// ---------------------------------------------------------------------------------------------------------------------
// Marks

int cuda_mark(struct backend_context *c, int32_t id)
{
    if (id >= c->n_marks) {
        int32_t wanted = c->n_marks ? 2 * c->n_marks : 512;
        wanted = wanted > id ? wanted : id + 1;
        cudaEvent_t *grown = realloc(c->marks, (size_t)wanted * sizeof *grown);
        if (!grown) {
            return status_fail(-ENOMEM, "no memory for %d marks", wanted);
        }
        c->marks = grown;
        for (; c->n_marks < wanted; c->n_marks++) {
            int error = cuda_status(cudaEventCreate(&c->marks[c->n_marks]), "mark");
            if (error) {
                return error;
            }
        }
    }
    return cuda_status(
        cudaEventRecordWithFlags(c->marks[id], c->stream, c->open ? cudaEventRecordExternal : cudaEventRecordDefault),
        "mark");
}

int cuda_marks(struct backend_context *c, int64_t *ns, int32_t n)
{
    ns[0] = 0;
    for (int32_t i = 1; i < n; i++) {
        float ms = 0;
        int error = cuda_status(cudaEventElapsedTime(&ms, c->marks[0], c->marks[i]), "marks");
        if (error) {
            return error;
        }
        ns[i] = (int64_t)((double)ms * 1e6);
        ns[i] = ns[i] > ns[i - 1] ? ns[i] : ns[i - 1];
    }
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Recordings

static struct recording *find_recording(struct backend_context *c)
{
    for (int32_t i = 0; i < c->n_recordings; i++) {
        struct recording *r = &c->recordings[i];
        if (r->n_seqs == c->batch->n_seqs && r->context_bound == c->batch->context_bound) {
            r->used = c->steps;
            return r;
        }
    }
    return NULL;
}

// A place for the batch's shape, that of the least recently used if there is no other.
static void add_recording(struct backend_context *c)
{
    struct recording *r = &c->recordings[0];
    if (c->n_recordings < MAX_RECORDINGS) {
        r = &c->recordings[c->n_recordings++];
    } else {
        for (int32_t i = 1; i < c->n_recordings; i++) {
            r = c->recordings[i].used < r->used ? &c->recordings[i] : r;
        }
        forget_recording(r);
    }
    *r = (struct recording){.n_seqs = c->batch->n_seqs, .context_bound = c->batch->context_bound, .used = c->steps};
}

static int launch(struct backend_context *c, const struct recording *r, enum record kind)
{
    int error = 0;
    for (int piece = 0; piece < MAX_PIECES && r->exec[kind][piece] && !error; piece++) {
        error = cuda_status(cudaGraphLaunch(r->exec[kind][piece], c->stream), "replaying a step");
    }
    return error;
}

int cuda_replay(struct backend_context *c, const struct op_sample *sample, enum record kind)
{
    const struct recording *r = find_recording(c);
    if (!r || !r->exec[kind][0]) {
        return 0;
    }
    c->draw = *sample;
    int error = launch(c, r, kind);
    return error ? error : 1;
}

static int begin_piece(struct backend_context *c)
{
    return cuda_status(cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal), "recording a step");
}

// Makes a piece of what was captured, unless an error came before.
static int end_piece(struct backend_context *c, int error)
{
    cudaGraph_t graph = NULL;
    cudaError_t ended = cudaStreamEndCapture(c->stream, &graph);
    error = error ? error : cuda_status(ended, "recording a step");
    error = error ? error
                  : cuda_status(cudaGraphInstantiate(&c->open->exec[c->open_kind][c->open_pieces], graph, 0),
                                "recording a step");
    c->open_pieces += !error;
    if (graph) {
        cudaGraphDestroy(graph);
    }
    return error;
}

int cuda_record_begin(struct backend_context *c, enum record kind)
{
    struct recording *r = find_recording(c);
    if (!r) {
        add_recording(c);
        return 0;
    }
    int error = begin_piece(c);
    if (error) {
        return error;
    }
    c->open = r;
    c->open_kind = kind;
    c->open_pieces = 0;
    return 1;
}

int cuda_record_cut(struct backend_context *c)
{
    if (!c->open || c->open_pieces == MAX_PIECES - 1) {
        return 0;
    }
    int error = end_piece(c, 0);
    return error ? error : begin_piece(c);
}

int cuda_record_end(struct backend_context *c, int error)
{
    struct recording *r = c->open;
    error = end_piece(c, error);
    c->open = NULL;
    if (error) {
        forget_kind(r, c->open_kind);
    }
    return error ? error : launch(c, r, c->open_kind);
}

// ---------------------------------------------------------------------------------------------------------------------
// Results

// Rows of layers below the cross-decoder are all, those above it the last.
static int nan_error(const struct backend_context *c, int32_t layer, int32_t row)
{
    const struct rows *rows = layer >= plan_first_cross_layer(c->plan) ? &c->batch->last : &c->batch->all;
    return status_fail(-EDOM, "layer %d: position %d: an index score is not a number", layer, rows->position[row]);
}

// Greedy rows were drawn on the device; one that draws by chance has its logits brought here, where the sampler defines
// the draw.
static int take_token(struct backend_context *c, int32_t row)
{
    int32_t token = c->results_host.token[row], vocab = c->plan->shape.vocab;
    const struct sampling *sampling = &c->draw.sampling[row];
    if (token >= 0 && sampling->temperature > 0) {
        int error = cuda_status(cudaMemcpy(c->logits_host, c->draw.logits + (int64_t)row * vocab,
                                           (size_t)vocab * sizeof(float), cudaMemcpyDeviceToHost),
                                "logits");
        if (error) {
            return error;
        }
        token = sampler_draw(c->logits_host, vocab, sampling, c->batch->last.position[row]);
    }
    if (token < 0) {
        return status_fail(-EDOM, "position %d: a logit is not a number", c->batch->last.position[row]);
    }
    c->draw.token[row] = token;
    return 0;
}

int cuda_end_step(struct backend_context *c)
{
    int32_t n_layers = c->plan->shape.n_layers, n = c->draw.token ? c->batch->last.n : 0;
    int error =
        cuda_status(cudaMemcpyAsync(c->results_host.nan_row, c->results.nan_row,
                                    (size_t)(n_layers + n) * sizeof(int32_t), cudaMemcpyDeviceToHost, c->stream),
                    "results");
    error = error ? error : cuda_status(cudaStreamSynchronize(c->stream), "step");
    for (int32_t layer = 0; layer < n_layers && !error; layer++) {
        if (c->results_host.nan_row[layer]) {
            error = nan_error(c, layer, c->results_host.nan_row[layer] - 1);
            cudaMemset(c->results.nan_row, 0, (size_t)n_layers * sizeof(int32_t));
        }
    }
    for (int32_t row = 0; row < n && !error; row++) {
        error = take_token(c, row);
    }
    c->batch = NULL;
    return error;
}
