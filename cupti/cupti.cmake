# NVIDIA's headers are not needed. Where they are, our declarations are compared with them.
find_path(CLSA_CUPTI_INCLUDE cupti.h HINTS /usr/local/cuda/include /usr/local/cuda/extras/CUPTI/include)
find_path(CLSA_CUDA_INCLUDE cuda.h HINTS /usr/local/cuda/include)
mark_as_advanced(CLSA_CUPTI_INCLUDE CLSA_CUDA_INCLUDE)
if(CLSA_CUPTI_INCLUDE AND CLSA_CUDA_INCLUDE)
    set_source_files_properties(cupti/cupti_api_check.c PROPERTIES COMPILE_DEFINITIONS CLSA_CUPTI_HEADERS
        COMPILE_OPTIONS "-isystem;${CLSA_CUPTI_INCLUDE};-isystem;${CLSA_CUDA_INCLUDE}")
endif()

# Ranges for nsys and ncu need the headers of NVTX and nothing else; Debian has them only in its non-free part.
find_path(CLSA_NVTX_INCLUDE nvtx3/nvToolsExtPayload.h HINTS /usr/local/cuda/include)
mark_as_advanced(CLSA_NVTX_INCLUDE)
if(CLSA_NVTX_INCLUDE)
    set_source_files_properties(cupti/nvtx.c PROPERTIES COMPILE_DEFINITIONS CLSA_NVTX_HEADERS
        COMPILE_OPTIONS "-isystem;${CLSA_NVTX_INCLUDE}")
endif()
