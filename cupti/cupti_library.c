// cupti/cupti_library.c - finds libcupti.so: where CUDA_HOME says, on the loader's path, in the toolkit's usual places.
#include "cupti/cupti_api.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cupti/cupti_functions.h"
#include "engine/status.h"

enum { OLDEST_VERSION = 18 };    // the interface of CUDA 12.0; from CUDA 13 on numbers are like 130001

#define FUNCTION(kind, number, name, cbid) {kind, number, name},
const struct cupti_function cupti_functions[] = {CUPTI_FUNCTIONS(FUNCTION){0, 0, NULL}};

// The newest first; a name without a version exists only where the toolkit is installed for developers.
static const char *const file_names[] = {"libcupti.so.13", "libcupti.so.12", "libcupti.so"};
static const char *const folders[] = {"lib64", "extras/CUPTI/lib64", "lib"};
enum { N_NAMES = sizeof file_names / sizeof *file_names, N_FOLDERS = sizeof folders / sizeof *folders };

static char found_path[512];

static void *open_file(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library) {
        snprintf(found_path, sizeof found_path, "%s", path);
    }
    return library;
}

static void *open_below(const char *home)
{
    void *library = NULL;
    for (int f = 0; f < N_FOLDERS && !library; f++) {
        for (int n = 0; n < N_NAMES && !library; n++) {
            char path[512];
            int length = snprintf(path, sizeof path, "%s/%s/%s", home, folders[f], file_names[n]);
            library = length < (int)sizeof path ? open_file(path) : NULL;
        }
    }
    return library;
}

static void *open_library(void)
{
    const char *home = getenv("CUDA_HOME");
    void *library = home && *home ? open_below(home) : NULL;
    for (int n = 0; n < N_NAMES && !library; n++) {
        library = open_file(file_names[n]);
    }
    return library ? library : open_below("/usr/local/cuda");
}

// Puts the symbol's address into the function pointer at `slot`; ISO C has no cast between the two.
static bool find(void *library, void *slot, const char *name)
{
    void *symbol = dlsym(library, name);
    memcpy(slot, &symbol, sizeof symbol);
    return symbol != NULL;
}

static const char *find_all(void *library, struct cupti *cupti)
{
    const struct {
        void *slot;
        const char *name;
    } needed[] = {
        {&cupti->version, "cuptiGetVersion"},
        {&cupti->result_string, "cuptiGetResultString"},
        {&cupti->subscribe, "cuptiSubscribe"},
        {&cupti->unsubscribe, "cuptiUnsubscribe"},
        {&cupti->enable_callback, "cuptiEnableCallback"},
        {&cupti->enable, "cuptiActivityEnable"},
        {&cupti->disable, "cuptiActivityDisable"},
        {&cupti->set_attribute, "cuptiActivitySetAttribute"},
        {&cupti->register_timestamp, "cuptiActivityRegisterTimestampCallback"},
        {&cupti->register_buffers, "cuptiActivityRegisterCallbacks"},
        {&cupti->next_record, "cuptiActivityGetNextRecord"},
        {&cupti->dropped, "cuptiActivityGetNumDroppedRecords"},
        {&cupti->flush, "cuptiActivityFlushAll"},
        {&cupti->push_external, "cuptiActivityPushExternalCorrelationId"},
        {&cupti->pop_external, "cuptiActivityPopExternalCorrelationId"},
        {&cupti->node_id, "cuptiGetGraphNodeId"},
    };
    find(library, &cupti->subscribe_named, "cuptiSubscribe_v2");
    find(library, &cupti->enable_runtime, "cuptiActivityEnableRuntimeApi");
    find(library, &cupti->enable_driver, "cuptiActivityEnableDriverApi");
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        if (!find(library, needed[i].slot, needed[i].name)) {
            return needed[i].name;
        }
    }
    return NULL;
}

const struct cupti *cupti_library(const char **path)
{
    static struct cupti functions;
    static bool found;
    uint32_t version = 0;
    if (!found) {
        void *library = open_library();
        if (!library) {
            status_fail(-ENODEV,
                        "libcupti.so is neither on the library path nor in CUDA_HOME nor in /usr/local/cuda; it comes "
                        "with the CUDA toolkit (package cuda-cupti)");
            return NULL;
        }
        const char *missing = find_all(library, &functions);
        if (missing) {
            status_fail(-ENODEV, "%s has no function %s; CUDA 12 or later is needed", found_path, missing);
        } else if (functions.version(&version) != CUPTI_OK || version < OLDEST_VERSION) {
            status_fail(-ENODEV, "%s speaks version %u; CUDA 12 or later is needed", found_path, version);
        } else {
            found = true;
        }
        if (!found) {
            dlclose(library);
            return NULL;
        }
    }
    if (path) {
        *path = found_path;
    }
    return &functions;
}
