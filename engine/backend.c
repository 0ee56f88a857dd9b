// engine/backend.c - finds a backend by name; the CUDA one in a plug-in that is loaded when first asked for.
//
// The plug-in stays loaded until the process ends: its table is static data that contexts refer to.
#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#include "engine/backend.h"
#include "engine/status.h"

#define CUDA_PLUGIN "libclsa_cuda.so"

static int load_cuda(const struct backend **out)
{
    void *plugin = dlopen(CUDA_PLUGIN, RTLD_NOW | RTLD_LOCAL);
    if (!plugin) {
        return status_fail(-ENODEV, "backend 'cuda': %s; it needs the plug-in %s, built where CUDA is installed, in "
                           "the library path", dlerror(), CUDA_PLUGIN);
    }
    void *symbol = dlsym(plugin, "clsa_cuda_backend");
    if (!symbol) {
        dlclose(plugin);
        return status_fail(-ENODEV, "backend 'cuda': %s has no function clsa_cuda_backend", CUDA_PLUGIN);
    }
    const struct backend *(*table)(void);
    memcpy(&table, &symbol, sizeof table);    // ISO C has no cast from an object's address to a function's
    const struct backend *backend = table();
    if (!backend || backend->abi != BACKEND_ABI) {
        int32_t abi = backend ? backend->abi : -1;
        dlclose(plugin);
        return status_fail(-ENODEV, "backend 'cuda': %s speaks version %d of the interface, this program %d; "
                           "rebuild it", CUDA_PLUGIN, abi, BACKEND_ABI);
    }
    symbol = dlsym(plugin, "clsa_cuda_absent");
    const char *(*absent)(void) = NULL;
    memcpy(&absent, &symbol, sizeof absent);
    const char *reason = absent ? absent() : NULL;
    if (reason) {    // static text of the plug-in, which therefore stays loaded
        return status_fail(-ENODEV, "backend 'cuda': no usable GPU here: %s", reason);
    }
    *out = backend;
    return 0;
}

int backend_find(const struct backend **out, const char *name)
{
    *out = NULL;
    if (strcmp(name, "cuda") == 0) {
        return load_cuda(out);
    }
    if (strcmp(name, backend_reference.name) == 0) {
        *out = &backend_reference;
    } else if (strcmp(name, backend_cpu.name) == 0) {
        *out = &backend_cpu;
    } else {
        return status_fail(-EINVAL, "unknown backend '%s': expected reference, cpu or cuda", name);
    }
    return 0;
}
