// tests/mock/mock_nvtx.c - a tool that listens to NVTX, for tests: writes what it hears as text.
//
// Loaded by NVTX's headers from NVTX_INJECTION64_PATH, as nsys and ncu are. Text: "(name" a range is pushed, ")"
// popped, "[name" started, "]" ended; behind a range with a payload "{" its first two fields and, as text, its last
// "}". Only built where NVTX's headers are.
#include <nvtx3/nvToolsExt.h>
#include <nvtx3/nvToolsExtPayload.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table);
EXPORT const char *mock_nvtx_heard(void);

static char heard[1 << 16], names[1 << 12][32];
static int n_names, domain;

const char *mock_nvtx_heard(void)
{
    return heard;
}

__attribute__((format(printf, 1, 2))) static void hear(const char *format, ...)
{
    va_list arguments;
    size_t used = strlen(heard);
    va_start(arguments, format);
    vsnprintf(heard + used, sizeof heard - used, format, arguments);
    va_end(arguments);
}

static nvtxDomainHandle_t create_domain(const char *name)
{
    hear("%s:", name);
    return (nvtxDomainHandle_t)(void *)&domain;
}

static nvtxStringHandle_t register_string(nvtxDomainHandle_t in, const char *name)
{
    (void)in;
    snprintf(names[n_names], sizeof names[0], "%s", name);
    return (nvtxStringHandle_t)(void *)names[n_names++];
}

static void hear_event(const char *sign, const nvtxEventAttributes_t *event)
{
    const void *registered = event->message.registered;
    hear("%s%s", sign,
         event->messageType == NVTX_MESSAGE_TYPE_REGISTERED ? (const char *)registered : event->message.ascii);
    if (event->payloadType == NVTX_PAYLOAD_TYPE_EXT) {
        const nvtxPayloadData_t *data = (const void *)(uintptr_t)event->payload.ullValue;
        const char *text;
        int64_t first;
        int32_t second;
        memcpy(&first, data->payload, sizeof first);
        memcpy(&second, (const char *)data->payload + sizeof first, sizeof second);
        memcpy(&text, (const char *)data->payload + data->size - sizeof text, sizeof text);
        hear("{%lld %d %s}", (long long)first, (int)second, text);
    }
}

static int push(nvtxDomainHandle_t in, const nvtxEventAttributes_t *event)
{
    (void)in;
    hear_event("(", event);
    return 0;
}

static int pop(nvtxDomainHandle_t in)
{
    (void)in;
    hear(")");
    return 0;
}

static nvtxRangeId_t start(nvtxDomainHandle_t in, const nvtxEventAttributes_t *event)
{
    (void)in;
    hear_event("[", event);
    return 5;
}

static void end(nvtxDomainHandle_t in, nvtxRangeId_t range)
{
    (void)in;
    hear(range == 5 ? "]" : "?");
}

int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table)
{
    const NvtxExportTableCallbacks *callbacks = get_table(NVTX_ETID_CALLBACKS);
    NvtxFunctionTable table = NULL;
    unsigned int size = 0;
    if (!callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size)) {
        return 0;
    }
    *table[NVTX_CBID_CORE2_DomainCreateA] = (NvtxFunctionPointer)(void (*)(void))create_domain;
    *table[NVTX_CBID_CORE2_DomainRegisterStringA] = (NvtxFunctionPointer)(void (*)(void))register_string;
    *table[NVTX_CBID_CORE2_DomainRangePushEx] = (NvtxFunctionPointer)(void (*)(void))push;
    *table[NVTX_CBID_CORE2_DomainRangePop] = (NvtxFunctionPointer)(void (*)(void))pop;
    *table[NVTX_CBID_CORE2_DomainRangeStartEx] = (NvtxFunctionPointer)(void (*)(void))start;
    *table[NVTX_CBID_CORE2_DomainRangeEnd] = (NvtxFunctionPointer)(void (*)(void))end;
    return 1;
}
