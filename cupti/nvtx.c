// cupti/nvtx.c - what the observer hears, as NVTX ranges.
//
// The state is the process's, as the tool is. Names that are not registered in time (layers beyond the table, requests)
// are given as text. Ranges of requests are kept in a small table; a request that finds no place in it has none.
#include "cupti/nvtx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef CLSA_NVTX_HEADERS
#include <nvtx3/nvToolsExt.h>
#include <nvtx3/nvToolsExtPayload.h>

enum { MAX_LAYERS = 256, MAX_REQUESTS = 1024, NAME_BYTES = 48 };
enum { CATEGORY_REQUEST = 1, CATEGORY_PHASE, CATEGORY_STEP, CATEGORY_LAYER, CATEGORY_STAGE, CATEGORIES };

// What is attached to a step or a stage. The order is that of payload_entries.
struct payload {
    int64_t step;
    int32_t layer, sequences, tokens, context, top_k, phase;
    int64_t bytes, flops;
    const char *method;
};

static const nvtxPayloadSchemaEntry_t payload_entries[] = {
    {.type = NVTX_PAYLOAD_ENTRY_TYPE_INT64, .name = "step", .offset = offsetof(struct payload, step)},
    {.type = NVTX_PAYLOAD_ENTRY_TYPE_INT32, .name = "layer", .offset = offsetof(struct payload, layer)},
    {.type = NVTX_PAYLOAD_ENTRY_TYPE_INT32, .name = "sequences", .offset = offsetof(struct payload, sequences)},
    {.type = NVTX_PAYLOAD_ENTRY_TYPE_INT32, .name = "tokens", .offset = offsetof(struct payload, tokens)},
    {.type = NVTX_PAYLOAD_ENTRY_TYPE_INT32, .name = "context", .offset = offsetof(struct payload, context)},
    {.type = NVTX_PAYLOAD_ENTRY_TYPE_INT32, .name = "k", .offset = offsetof(struct payload, top_k)},
    {.type = NVTX_PAYLOAD_ENTRY_TYPE_INT32, .name = "phase", .offset = offsetof(struct payload, phase)},
    {.type = NVTX_PAYLOAD_ENTRY_TYPE_INT64, .name = "bytes", .offset = offsetof(struct payload, bytes)},
    {.type = NVTX_PAYLOAD_ENTRY_TYPE_INT64, .name = "flops", .offset = offsetof(struct payload, flops)},
    {.type = NVTX_PAYLOAD_ENTRY_TYPE_CSTRING, .name = "method", .offset = offsetof(struct payload, method)},
};

static struct {
    bool decided, listens, in_phase;
    nvtxDomainHandle_t domain;
    uint64_t schema;
    nvtxStringHandle_t stages[STAGE_COUNT], phases[PHASE_COUNT], layers[MAX_LAYERS], step;
    enum phase phase;
    char method[SOURCE_NAME_BYTES];
    int32_t top_k;
    struct { int64_t request; nvtxRangeId_t range; bool used; } requests[MAX_REQUESTS];
} nvtx;

static void register_all(void)
{
    static const char *const categories[CATEGORIES] = {[CATEGORY_REQUEST] = "request", [CATEGORY_PHASE] = "phase",
                                                       [CATEGORY_STEP] = "step", [CATEGORY_LAYER] = "layer",
                                                       [CATEGORY_STAGE] = "stage"};
    for (uint32_t c = CATEGORY_REQUEST; c < CATEGORIES; c++) {
        nvtxDomainNameCategoryA(nvtx.domain, c, categories[c]);
    }
    for (int s = 0; s < STAGE_COUNT; s++) {
        nvtx.stages[s] = nvtxDomainRegisterStringA(nvtx.domain, stage_name((enum stage)s));
    }
    for (int p = 0; p < PHASE_COUNT; p++) {
        nvtx.phases[p] = nvtxDomainRegisterStringA(nvtx.domain, phase_name((enum phase)p));
    }
    for (int l = 0; l < MAX_LAYERS; l++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "layer %d", l);
        nvtx.layers[l] = nvtxDomainRegisterStringA(nvtx.domain, name);
    }
    nvtx.step = nvtxDomainRegisterStringA(nvtx.domain, "step");
    nvtxPayloadSchemaAttr_t schema = {
        .fieldMask = NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_NAME | NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_TYPE |
                     NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_ENTRIES | NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_NUM_ENTRIES |
                     NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_STATIC_SIZE,
        .name = "clsa work",
        .type = NVTX_PAYLOAD_SCHEMA_TYPE_STATIC,
        .entries = payload_entries,
        .numEntries = sizeof payload_entries / sizeof *payload_entries,
        .payloadStaticSize = sizeof(struct payload),
    };
    nvtx.schema = nvtxPayloadSchemaRegister(nvtx.domain, &schema);
}

// A tool need not give domains handles, so one that was asked for by name counts as well.
bool nvtx_listens(void)
{
    if (!nvtx.decided) {
        const char *tool = getenv("NVTX_INJECTION64_PATH");
        nvtx.decided = true;
        nvtxInitialize(NULL);
        nvtx.domain = nvtxDomainCreateA("clsa");
        nvtx.listens = nvtx.domain || (tool && *tool);
        if (nvtx.listens) {
            register_all();
        }
    }
    return nvtx.listens;
}

const char *nvtx_state(void)
{
    return nvtx_listens() ? "a tool listens" : "built in; no tool listens";
}

static nvtxEventAttributes_t named(uint32_t category, nvtxStringHandle_t name)
{
    nvtxEventAttributes_t event = {
        .version = NVTX_VERSION, .size = NVTX_EVENT_ATTRIB_STRUCT_SIZE, .category = category};
    event.messageType = NVTX_MESSAGE_TYPE_REGISTERED;
    event.message.registered = name;
    return event;
}

static nvtxEventAttributes_t with_text(uint32_t category, const char *name)
{
    nvtxEventAttributes_t event = {
        .version = NVTX_VERSION, .size = NVTX_EVENT_ATTRIB_STRUCT_SIZE, .category = category};
    event.messageType = NVTX_MESSAGE_TYPE_ASCII;
    event.message.ascii = name;
    return event;
}

static void push_with(uint32_t category, nvtxStringHandle_t name, struct payload *payload)
{
    nvtxEventAttributes_t event = named(category, name);
    payload->method = nvtx.method;
    payload->top_k = nvtx.top_k;
    payload->phase = (int32_t)nvtx.phase;
    nvtxPayloadData_t data = {nvtx.schema, sizeof *payload, payload};
    event.payloadType = NVTX_PAYLOAD_TYPE_EXT;
    event.payload.ullValue = (uint64_t)(uintptr_t)&data;
    event.reserved0 = 1;    // payloads
    nvtxDomainRangePushEx(nvtx.domain, &event);
}

static void push(uint32_t category, nvtxStringHandle_t name)
{
    nvtxEventAttributes_t event = named(category, name);
    nvtxDomainRangePushEx(nvtx.domain, &event);
}

static void pop(void)
{
    nvtxDomainRangePop(nvtx.domain);
}

void nvtx_source(const struct sample_source *source)
{
    memcpy(nvtx.method, source->method, sizeof nvtx.method);
    nvtx.top_k = source->top_k;
}

static void finish_phase(void)
{
    if (nvtx.in_phase) {
        pop();
    }
    nvtx.in_phase = false;
}

void nvtx_step_begin(const struct observed_step *step)
{
    if (!nvtx.in_phase || nvtx.phase != step->phase) {
        finish_phase();
        nvtx.in_phase = true;
        nvtx.phase = step->phase;
        push(CATEGORY_PHASE, nvtx.phases[step->phase]);
    }
    struct payload payload = {.step = step->step, .layer = -1, .sequences = step->n_seqs, .tokens = step->n_tokens,
                              .context = step->context_tokens};
    push_with(CATEGORY_STEP, nvtx.step, &payload);
}

void nvtx_step_end(void)
{
    pop();
}

void nvtx_layer_begin(int32_t layer)
{
    char name[NAME_BYTES];
    if (layer < MAX_LAYERS) {
        push(CATEGORY_LAYER, nvtx.layers[layer]);
        return;
    }
    snprintf(name, sizeof name, "layer %d", layer);
    nvtxEventAttributes_t event = with_text(CATEGORY_LAYER, name);
    nvtxDomainRangePushEx(nvtx.domain, &event);
}

void nvtx_layer_end(void)
{
    pop();
}

void nvtx_stage_begin(int64_t step, const struct observed_stage *stage)
{
    struct payload payload = {.step = step, .layer = stage->layer, .sequences = stage->n_seqs,
                              .tokens = stage->n_tokens, .context = stage->context_tokens, .bytes = stage->bytes,
                              .flops = stage->flops};
    push_with(CATEGORY_STAGE, nvtx.stages[stage->stage], &payload);
}

void nvtx_stage_end(void)
{
    pop();
}

static void begin_request(int64_t request)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "request %lld", (long long)request);
    nvtxEventAttributes_t event = with_text(CATEGORY_REQUEST, name);
    for (int r = 0; r < MAX_REQUESTS; r++) {
        if (!nvtx.requests[r].used) {
            nvtx.requests[r].used = true;
            nvtx.requests[r].request = request;
            nvtx.requests[r].range = nvtxDomainRangeStartEx(nvtx.domain, &event);
            return;
        }
    }
}

static void end_request(int r)
{
    nvtxDomainRangeEnd(nvtx.domain, nvtx.requests[r].range);
    nvtx.requests[r].used = false;
}

void nvtx_request(const struct request_sample *request)
{
    if (request->state == REQUEST_RUNNING) {
        begin_request(request->request);
    }
    for (int r = 0; request->state == REQUEST_FINISHED && r < MAX_REQUESTS; r++) {
        if (nvtx.requests[r].used && nvtx.requests[r].request == request->request) {
            end_request(r);
        }
    }
}

void nvtx_finish(void)
{
    finish_phase();
    for (int r = 0; r < MAX_REQUESTS; r++) {
        if (nvtx.requests[r].used) {
            end_request(r);
        }
    }
}

#else

bool nvtx_listens(void)
{
    return false;
}

const char *nvtx_state(void)
{
    return "not built in: nvtx3/nvToolsExt.h was not found when clsa was built";
}

// Never called, because nobody listens.
void nvtx_source(const struct sample_source *source) { (void)source; }
void nvtx_step_begin(const struct observed_step *step) { (void)step; }
void nvtx_step_end(void) {}
void nvtx_layer_begin(int32_t layer) { (void)layer; }
void nvtx_layer_end(void) {}
void nvtx_stage_begin(int64_t step, const struct observed_stage *stage) { (void)step, (void)stage; }
void nvtx_stage_end(void) {}
void nvtx_request(const struct request_sample *request) { (void)request; }
void nvtx_finish(void) {}
#endif
