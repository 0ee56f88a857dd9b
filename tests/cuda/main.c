// tests/cuda/main.c - the kernels' own test and benchmark: `cuda_kernels test [name [small | tiny]]`, `cuda_kernels
// bench [row] [FILE.tsv]`. An empty name means all; `small` leaves out what compute-sanitizer's memcheck would not
// finish. `tiny` is for its racecheck: the same kernels over a few hundred to a few thousand tokens, with grids as for
// a device of three multiprocessors, so that blocks still go round their rings of stages. What a tiny run leaves out
// are sizes that change a launch and not a kernel: more rows than one launch takes, token numbers beyond one range of
// marks.
//
// Stands alone (no ncurses, no protobuf, no model): it travels to a machine with a GPU as one file. Every kernel is
// compared with a double-precision reference on the host. Exit 77 without a device.
#include "tests/cuda/gpu.h"

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(void);
    } tests[] = {{"linear", test_linear}, {"elementwise", test_elementwise}, {"attention", test_attention},
                 {"prefill_attention", test_prefill_attention}, {"prefill_selected", test_prefill_selected},
                 {"index", test_index}, {"page_bound", test_page_bound}, {"top_k", test_top_k},
                 {"top_k_rows", test_top_k_rows}};
    int devices = 0, failed = 0;
    gpu_begin();
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        return check_skip("no CUDA device");
    }
    if (argc > 1 && strcmp(argv[1], "bench") == 0) {
        return bench(argc > 2 ? argv[2] : "", argc > 3 ? argv[3] : NULL) || gpu_failures();
    }
    gpu_tiny = argc > 3 && strcmp(argv[3], "tiny") == 0;
    gpu_small = gpu_tiny || (argc > 3 && strcmp(argv[3], "small") == 0);
    most_multiprocessors = gpu_tiny ? 3 : 0;
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        if (argc > 2 && argv[2][0] && strcmp(argv[2], tests[i].name) != 0) {
            continue;
        }
        int error = tests[i].run();
        gpu_must(cudaDeviceSynchronize(), tests[i].name);
        printf("%-18s %s\n", tests[i].name, error ? "FAILED" : "ok");
        fflush(stdout);
        failed |= error;
    }
    return failed | gpu_failures();
}
