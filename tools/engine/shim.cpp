// What the tool adds to the engine at run time, compiled against the headers of the engine's own build:
//
// 1. memory-only accelerators: devices that answer every question of size, support and fusion with the CUDA
//    backend's own functions, cut out of its source when this is compiled (cut.py), and compute nothing;
// 2. a few functions of ggml's scheduler under their own names. The shim is loaded before libllama, so the
//    engine calls these, and they pass on: a dry-run reservation becomes a real one, whose sizes can be read
//    afterwards, and every graph that is reserved can be looked at before the scheduler touches it, and again
//    as the allocator is given it;
// 3. plain C access to what the engine exports as C++ (memory breakdown, tensors of a model).
#define GGML_COMMON_DECL_CPP
#include "ggml-backend-impl.h"
#include "ggml-common.h"
#include "ggml-cuda.h"
#include "ggml-impl.h"
#include "llama-ext.h"
#include "mtmd.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

// declared in llama-model.h, which drags in the whole engine
const std::vector<std::pair<std::string, ggml_tensor *>> & llama_internal_get_tensor_map(const llama_model * model);

#define EXPORT extern "C" __attribute__((visibility("default")))

// ------------------------------------------------------------------------------ the CUDA backend's rules
// What is cut, and around it stand-ins for the little of CUDA that it mentions; nothing of it ever runs.

namespace {

#define CUDART_VERSION 12080  // a build of today
#define __host__
#define __device__
#define CUDA_CHECK(call)

typedef void * cudaEvent_t;

void ggml_cuda_set_device(int) {}

#include "cuda-types.inc"

ggml_cuda_device_info cuda_info;

const ggml_cuda_device_info & ggml_cuda_info() { return cuda_info; }

struct ggml_backend_cuda_context {
    int device;
    ggml_cuda_stream_context streams;

    ggml_cuda_stream_context & stream_context() { return streams; }
};

template <int D, ggml_type type_K, ggml_type type_V>
void ggml_cuda_flash_attn_ext_vec_case(ggml_backend_cuda_context &, ggml_tensor *) {}

#include "cuda-rules.inc"

}  // namespace

// ------------------------------------------------------------------------------- the same, compiled for AMD
// HIP is CUDA's source with other macros; its answers are the same functions once more.

namespace hip {

#define GGML_USE_HIP
#undef GGML_CUDA_USE_CUB

#include "cuda-types.inc"

ggml_cuda_device_info cuda_info;

const ggml_cuda_device_info & ggml_cuda_info() { return cuda_info; }

struct ggml_backend_cuda_context {
    int device;
    ggml_cuda_stream_context streams;

    ggml_cuda_stream_context & stream_context() { return streams; }
};

template <int D, ggml_type type_K, ggml_type type_V>
void ggml_cuda_flash_attn_ext_vec_case(ggml_backend_cuda_context &, ggml_tensor *) {}

#include "cuda-rules.inc"

constexpr int AMD = 0x1000000;
constexpr size_t SHARED = 65536;  // of a block, on every card of AMD

}  // namespace hip

// ---------------------------------------------------------------------------- the Vulkan backend's rules
// A card that has all that the backend asks for, and limits that are set at run time.

namespace {

#define VK_LOG_DEBUG(text)
#define UNUSED GGML_UNUSED

struct vk_limits {
    uint32_t maxStorageBufferRange = UINT32_MAX;
    uint64_t minStorageBufferOffsetAlignment = 16;
    uint32_t maxComputeSharedMemorySize = 32768;
};

struct vk_device_struct {
    struct { vk_limits limits; } properties;
    uint64_t max_buffer_size = UINT64_MAX;
    uint64_t suballocation_block_size = uint64_t(1) << 30;
    size_t host_alignment = 64;
    bool shader_int64 = true, buffer_device_address = true, shader_64b_indexing = false, fp16 = true;
    bool coopmat2 = false, vulkan_memory_model = true, disable_graph_optimize = false;
    bool subgroup_basic = true, subgroup_shuffle = true, subgroup_vote = true, subgroup_arithmetic = true;
    bool subgroup_require_full_support = true;
    uint32_t max_workgroup_size_log2 = 10, subgroup_size_log2 = 5;
    std::array<bool, GGML_TYPE_COUNT> mul_mat_id_s, mul_mat_id_m, mul_mat_id_l;
    std::array<bool, 16> pipeline_topk_f32;
    void * pipeline_topk_radix_f32 = this;
    void * pipeline_dsv4_hc_comb_f32 = this;

    vk_device_struct() {
        mul_mat_id_s.fill(true);
        mul_mat_id_m.fill(true);
        mul_mat_id_l.fill(true);
        pipeline_topk_f32.fill(true);
    }
};

typedef vk_device_struct * vk_device;
typedef ggml_backend_cuda_device_context ggml_backend_vk_device_context;

struct ggml_backend_vk_context {
    vk_device device;
};

vk_device_struct vk_card_data;
vk_device vk_card = &vk_card_data;

const vk_device & ggml_vk_get_device(size_t) { return vk_card; }
// of device memory as of tensors that have none yet: multiples of any alignment
size_t vk_tensor_offset(const ggml_tensor * t) { return size_t(t->data) - 0x1000; }

#include "vulkan-rules.inc"

}  // namespace

// ----------------------------------------------------------------------------- the Metal backend's rules
// An M1 or newer. Order and fusions are whole files of the engine that ask nothing of Apple.

#include "ggml-metal/ggml-metal-device.h"
#include "ggml-metal/ggml-metal-common.cpp"
#include "ggml-metal/ggml-metal-fusion.cpp"

struct ggml_metal_device {
    ggml_metal_device_props props;
};

extern "C" ggml_metal_buffer_id ggml_metal_buffer_get_id(ggml_metal_buffer_t, const ggml_tensor *) { return {}; }

namespace metal {

#include "metal-rules.inc"

ggml_metal_device card;

bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) { return metal::ggml_metal_device_supports_op(&card, op); }

bool offload_op(ggml_backend_dev_t, const ggml_tensor * op) {
    return (op->op == GGML_OP_MUL_MAT || op->op == GGML_OP_MUL_MAT_ID) && get_op_batch_size(op) >= 32;
}

std::vector<std::pair<ggml_tensor *, size_t>> addresses;  // of what has a buffer without memory, while the order is made

void graph_optimize(ggml_backend_t, ggml_cgraph * graph, ggml_backend_graph_optimize_params * params) {
    ggml_metal_fusion_add_alloc_deps(params->user_data, params->add_alloc_dep, graph);
    for (auto & [tensor, address] : addresses) {
        tensor->data = reinterpret_cast<void *>(address);
    }
    ggml_graph_optimize(graph);
    for (auto & [tensor, address] : addresses) {
        tensor->data = nullptr;
    }
}

size_t alignment(ggml_backend_buffer_type_t) { return 32; }
size_t max_size(ggml_backend_buffer_type_t) { return card.props.max_buffer_size; }

}  // namespace metal

// ------------------------------------------------------------------------------ the SYCL backend's rules
// The default build: for Intel, with oneDNN, and nothing that the environment sets.

namespace sycl {
typedef uint16_t half;
}

namespace intel {

#define GGML_SYCL_DNNL 1
#define GGML_SYCL_HAS_BF16
#define WARP_SIZE 16

enum class gpu_arch { other, intel_gpu_dg2_g10, intel_gpu_dg2_g11, intel_gpu_dg2_g12, intel_gpu_bmg_g21, intel_gpu_bmg_g31 };

struct {
    struct { struct { gpu_arch arch = gpu_arch::other; } hw_info; } devices[1];
    size_t max_buffer = SIZE_MAX;
} info;

auto & ggml_sycl_info() { return info; }
int ggml_sycl_get_device() { return 0; }
[[maybe_unused]] bool ggml_sycl_dnnl_has_optimized_gemm(int) { return true; }  // asked by builds after the one that is followed

int g_ggml_sycl_fa_onednn = 1, g_ggml_sycl_fa_onednn_max_kv = 0, g_ggml_sycl_enable_mkl_fa = 1, g_ggml_sycl_enable_flash_attention = 1;

struct ggml_backend_sycl_device_context {
    int device;
    int op_offload_min_batch_size = 32;
};

bool ggml_sycl_flash_attn_ext_onednn_supported(const ggml_tensor * dst, bool use_shape_limit = true);

#include "sycl-rules.inc"

bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) {
    ggml_backend_sycl_device_context context = { 0 };
    ggml_backend_device dev = {};
    dev.context = &context;
    return do_ggml_backend_sycl_device_supports_op(&dev, op);
}

bool offload_op(ggml_backend_dev_t, const ggml_tensor * op) { return get_op_batch_size(op) >= 32; }

size_t alignment(ggml_backend_buffer_type_t) { return SYCL_BUFFER_ALIGNMENT; }
size_t max_size(ggml_backend_buffer_type_t) { return info.max_buffer; }

}  // namespace intel

// ---------------------------------------------------------------------------------------------- devices

namespace {

enum kind { CUDA, HIP, VULKAN, METAL, SYCL };

constexpr int    MAX_DEVICES    = GGML_CUDA_MAX_DEVICES;
constexpr size_t HOST_ALIGNMENT = 32;  // of the CPU backend, as CUDA's pinned buffers have it
constexpr int    OFFLOAD_BATCH  = 32;  // op_offload_min_batch_size, unless the environment says otherwise

struct device {
    ggml_backend_cuda_device_context context;
    ggml_backend_cuda_buffer_type_context buft_context;
    size_t memory = 0;
    ggml_backend_device dev = {};
    ggml_backend_buffer_type buft = {};
};

device devices[MAX_DEVICES];
kind rules = CUDA;  // which backend's: of all devices of a load
ggml_backend_buffer_type host_buft = {};
ggml_backend_reg registry = {};

ggml_backend_dev_t real_device = nullptr;  // of a backend that allocates
bool on_real = false;                      // whether loads take it instead

device & of(ggml_backend_dev_t dev) { return devices[static_cast<ggml_backend_cuda_device_context *>(dev->context)->device]; }

// buffers: device memory is an address that nobody reads; host memory is mapped, and stays untouched

void   buffer_free(ggml_backend_buffer_t) {}
void   mapped_free(ggml_backend_buffer_t b) { munmap(b->context, std::max<size_t>(b->size, 1)); }
void * device_base(ggml_backend_buffer_t) { return reinterpret_cast<void *>(uintptr_t(1) << 40); }
void * mapped_base(ggml_backend_buffer_t b) { return b->context; }
void   no_memset(ggml_backend_buffer_t, ggml_tensor *, uint8_t, size_t, size_t) {}
void   no_set(ggml_backend_buffer_t, ggml_tensor *, const void *, size_t, size_t) {}
void   no_get(ggml_backend_buffer_t, const ggml_tensor *, void *, size_t, size_t) {}
void   no_clear(ggml_backend_buffer_t, uint8_t) {}

ggml_backend_buffer_i buffer_iface(bool on_host) {
    ggml_backend_buffer_i i = {};
    i.free_buffer   = on_host ? mapped_free : buffer_free;
    i.get_base      = on_host ? mapped_base : device_base;
    i.memset_tensor = no_memset;
    i.set_tensor    = no_set;
    i.get_tensor    = no_get;
    i.clear         = no_clear;
    return i;
}

ggml_backend_buffer_t device_alloc(ggml_backend_buffer_type_t buft, size_t size) {
    return ggml_backend_buffer_init(buft, buffer_iface(false), nullptr, size);
}

ggml_backend_buffer_t mapped_alloc(ggml_backend_buffer_type_t buft, size_t size) {
    size += rules == VULKAN ? 32 : 0;  // ggml_backend_vk_host_buffer_type_alloc_buffer
    void * p = mmap(nullptr, std::max<size_t>(size, 1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? nullptr : ggml_backend_buffer_init(buft, buffer_iface(true), p, size);
}

// backends: a queue that is always empty

void nop(ggml_backend_t) {}
void free_backend(ggml_backend_t b) {
    if (b->iface.graph_optimize == ggml_vk_graph_optimize) {
        delete static_cast<ggml_backend_vk_context *>(b->context);
    } else if (b->iface.graph_optimize == hip::ggml_backend_cuda_graph_optimize) {
        delete static_cast<hip::ggml_backend_cuda_context *>(b->context);
    } else {
        delete static_cast<ggml_backend_cuda_context *>(b->context);
    }
    delete b;
}
void async_set(ggml_backend_t, ggml_tensor *, const void *, size_t, size_t) {}
void async_get(ggml_backend_t, const ggml_tensor *, void *, size_t, size_t) {}
bool async_copy(ggml_backend_t, ggml_backend_t, const ggml_tensor *, ggml_tensor *) { return true; }
enum ggml_status compute(ggml_backend_t, ggml_cgraph *) { return GGML_STATUS_FAILED; }
void on_event(ggml_backend_t, ggml_backend_event_t) {}

ggml_guid guid = { 0x76, 0x72, 0x61, 0x6d, 0x66, 0x69, 0x74, 0x20, 0x6d, 0x65, 0x6d, 0x6f, 0x72, 0x79, 0x20, 0x31 };

ggml_backend_t new_backend(ggml_backend_dev_t dev, const char *) {
    auto * b = new ggml_backend();
    b->guid = &guid;
    b->device = dev;
    if (rules == VULKAN) {
        b->context = new ggml_backend_vk_context{ vk_card };
    } else if (rules == HIP) {
        b->context = new hip::ggml_backend_cuda_context{ of(dev).context.device, {} };
    } else {
        b->context = new ggml_backend_cuda_context{ of(dev).context.device, {} };
    }
    b->iface.get_name = [](ggml_backend_t self) { return of(self->device).context.name.c_str(); };
    b->iface.free = free_backend;
    b->iface.set_tensor_async = async_set;
    b->iface.get_tensor_async = async_get;
    b->iface.cpy_tensor_async = async_copy;
    b->iface.synchronize = nop;
    b->iface.graph_compute = compute;
    b->iface.graph_optimize = rules == VULKAN ? ggml_vk_graph_optimize
                              : rules == HIP ? hip::ggml_backend_cuda_graph_optimize
                              : rules == METAL ? metal::graph_optimize
                              : rules == SYCL ? nullptr
                                               : ggml_backend_cuda_graph_optimize;
    b->iface.event_record = on_event;
    b->iface.event_wait = on_event;
    return b;
}

void describe(ggml_backend_dev_t dev, ggml_backend_dev_props * p) {
    *p = {};
    p->name = of(dev).context.name.c_str();
    p->description = "memory only";
    p->memory_free = p->memory_total = of(dev).memory;
    p->type = GGML_BACKEND_DEVICE_TYPE_GPU;
    p->caps.async = p->caps.host_buffer = p->caps.events = true;
}

void fill_device(device & d) {
    auto & i = d.dev.iface;
    i.get_name = [](ggml_backend_dev_t dev) { return of(dev).context.name.c_str(); };
    i.get_description = [](ggml_backend_dev_t) { return "memory only"; };
    i.get_memory = [](ggml_backend_dev_t dev, size_t * free, size_t * total) { *free = *total = of(dev).memory; };
    i.get_type = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; };
    i.get_props = describe;
    i.init_backend = new_backend;
    i.get_buffer_type = [](ggml_backend_dev_t dev) { return &of(dev).buft; };
    i.get_host_buffer_type = [](ggml_backend_dev_t) { return &host_buft; };
    i.event_new = [](ggml_backend_dev_t dev) { return new ggml_backend_event{ dev, nullptr }; };
    i.event_free = [](ggml_backend_dev_t, ggml_backend_event_t event) { delete event; };
    i.event_synchronize = [](ggml_backend_dev_t, ggml_backend_event_t) {};
    d.dev.reg = &registry;
    d.dev.context = &d.context;
    d.buft.device = &d.dev;
    d.buft.context = &d.buft_context;
    d.buft.iface.alloc_buffer = device_alloc;
}

// What Vulkan's buffer types answer (ggml_backend_vk_buffer_type_get_*, ggml_backend_vk_host_buffer_type_get_*).
size_t vk_alignment(ggml_backend_buffer_type_t) { return vk_card->properties.limits.minStorageBufferOffsetAlignment; }
size_t vk_host_alignment(ggml_backend_buffer_type_t) { return vk_card->host_alignment; }
size_t vk_max_size(ggml_backend_buffer_type_t) { return vk_card->suballocation_block_size; }
size_t vk_alloc_size(ggml_backend_buffer_type_t, const ggml_tensor * t) { return ggml_nbytes(t); }
size_t cuda_host_alignment(ggml_backend_buffer_type_t) { return HOST_ALIGNMENT; }

bool apart = false;  // the devices lack what the engine fuses, as those of some backends do

bool cuda_supports_op(ggml_backend_dev_t dev, const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_GATED_DELTA_NET:
        case GGML_OP_LIGHTNING_INDEXER:
        case GGML_OP_DSV4_HC_PRE:
        case GGML_OP_DSV4_HC_COMB:
        case GGML_OP_DSV4_HC_POST:
            if (apart) {
                return false;
            }
        default:
            return ggml_backend_cuda_device_supports_op(dev, op);
    }
}

void use_rules(kind k) {
    rules = k;
    for (device & d : devices) {
        auto & dev = d.dev.iface;
        auto & buft = d.buft.iface;
        dev.supports_op = cuda_supports_op;
        dev.offload_op = ggml_backend_cuda_device_offload_op;
        dev.supports_buft = ggml_backend_cuda_device_supports_buft;
        dev.get_host_buffer_type = [](ggml_backend_dev_t) { return &host_buft; };
        buft.get_name = ggml_backend_cuda_buffer_type_get_name;
        buft.get_alignment = ggml_backend_cuda_buffer_type_get_alignment;
        buft.get_max_size = nullptr;
        buft.get_alloc_size = ggml_backend_cuda_buffer_type_get_alloc_size;
        if (k == HIP) {
            dev.supports_op = hip::ggml_backend_cuda_device_supports_op;
            dev.supports_buft = hip::ggml_backend_cuda_device_supports_buft;
            dev.offload_op = hip::ggml_backend_cuda_device_offload_op;
            buft.get_name = hip::ggml_backend_cuda_buffer_type_get_name;
            buft.get_alignment = hip::ggml_backend_cuda_buffer_type_get_alignment;
            buft.get_alloc_size = hip::ggml_backend_cuda_buffer_type_get_alloc_size;
        } else if (k == VULKAN) {
            dev.supports_op = ggml_backend_vk_device_supports_op;
            dev.offload_op = ggml_backend_vk_device_offload_op;
            buft.get_alignment = vk_alignment;
            buft.get_max_size = vk_max_size;
            buft.get_alloc_size = vk_alloc_size;
        } else if (k == METAL) {
            dev.supports_op = metal::supports_op;
            dev.offload_op = metal::offload_op;
            dev.get_host_buffer_type = nullptr;
            buft.get_alignment = metal::alignment;
            buft.get_max_size = metal::max_size;
            buft.get_alloc_size = metal::ggml_backend_metal_buffer_type_get_alloc_size;
        } else if (k == SYCL) {
            dev.supports_op = intel::supports_op;
            dev.offload_op = intel::offload_op;
            buft.get_alignment = intel::alignment;
            buft.get_max_size = intel::max_size;
            buft.get_alloc_size = intel::ggml_backend_sycl_buffer_type_get_alloc_size;
        }
    }
    host_buft.iface.get_name = k == HIP ? hip::ggml_backend_cuda_host_buffer_type_name : ggml_backend_cuda_host_buffer_type_name;
    host_buft.iface.get_alignment = k == VULKAN ? vk_host_alignment : cuda_host_alignment;
    host_buft.iface.get_max_size = k == VULKAN ? vk_max_size : k == SYCL ? intel::max_size : nullptr;
}

}  // namespace

EXPORT ggml_backend_reg_t vf_registry() {
    if (registry.api_version) {
        return &registry;
    }
    registry.api_version = GGML_BACKEND_API_VERSION;
    registry.iface.get_name = [](ggml_backend_reg_t) { return GGML_CUDA_NAME; };
    registry.iface.get_device_count = [](ggml_backend_reg_t) { return size_t(MAX_DEVICES); };
    registry.iface.get_device = [](ggml_backend_reg_t, size_t i) { return &devices[i].dev; };
    registry.iface.get_proc_address = [](ggml_backend_reg_t, const char *) -> void * { return nullptr; };
    for (int i = 0; i < MAX_DEVICES; i++) {
        const std::string name = GGML_CUDA_NAME + std::to_string(i);
        devices[i].context = { i, name, "memory only", "", OFFLOAD_BATCH };
        devices[i].buft_context = { i, name };
        fill_device(devices[i]);
    }
    host_buft.device = &devices[0].dev;
    host_buft.iface.alloc_buffer = mapped_alloc;
    host_buft.iface.is_host = [](ggml_backend_buffer_type_t) { return true; };
    use_rules(CUDA);
    return &registry;
}

// The next load's devices answer as Vulkan's, with these limits in bytes; alignment 0: as CUDA's.
EXPORT void vf_vulkan(size_t alignment, size_t host_alignment, size_t max_tensor, size_t max_buffer, bool in_order, bool fp16) {
    use_rules(alignment ? VULKAN : CUDA);
    vk_card->fp16 = fp16;
    vk_card->properties.limits.minStorageBufferOffsetAlignment = alignment;
    vk_card->properties.limits.maxStorageBufferRange = uint32_t(std::min<size_t>(max_tensor, UINT32_MAX));
    vk_card->max_buffer_size = max_tensor;
    vk_card->host_alignment = host_alignment;
    vk_card->suballocation_block_size = std::min<size_t>(max_buffer, size_t(1) << 30);
    vk_card->disable_graph_optimize = in_order;
}

// `capability`: 860 for 8.6, AMD + 0x1100 for gfx1100, by which the load's devices answer as HIP's.
EXPORT ggml_backend_dev_t vf_device(int i, size_t bytes, int capability) {
    devices[i].memory = bytes;
    cuda_info.devices[i].cc = capability;
    hip::cuda_info.devices[i].cc = capability;
    hip::cuda_info.devices[i].smpb = hip::SHARED;
    if (capability >= hip::AMD) {
        use_rules(HIP);
    }
    return &devices[i].dev;
}

// A real device of a library with ggml's Vulkan backend: the next loads run on it, and allocate. False without one.
EXPORT bool vf_real_vulkan(const char * library) {
    if (void * handle = real_device ? nullptr : dlopen(library, RTLD_NOW | RTLD_LOCAL)) {
        const auto reg = reinterpret_cast<ggml_backend_reg_t (*)()>(dlsym(handle, "ggml_backend_vk_reg"));
        if (reg && ggml_backend_reg_dev_count(reg())) {
            ggml_backend_register(reg());
            real_device = ggml_backend_reg_dev_get(reg(), 0);
        }
    }
    return on_real = real_device;
}

EXPORT void vf_memory_only() { on_real = false; }

// The next load's devices answer as Metal's, with a largest buffer of so many bytes.
// Whether CUDA devices lack the operations that the engine fuses.
EXPORT void vf_apart(bool on) { apart = on; }

EXPORT void vf_metal(size_t max_buffer) {
    auto & p = metal::card.props;
    p.max_buffer_size = max_buffer;
    p.max_theadgroup_memory_size = 32768;
    p.has_simdgroup_reduction = p.has_simdgroup_mm = p.has_bfloat = true;
    use_rules(METAL);
}

// The next load's devices answer as SYCL's, with a largest buffer of so many bytes; Arc of the first generation or newer.
EXPORT void vf_sycl(size_t max_buffer, bool alchemist) {
    intel::info.max_buffer = max_buffer;
    intel::info.devices[0].hw_info.arch = alchemist ? intel::gpu_arch::intel_gpu_dg2_g10 : intel::gpu_arch::other;
    use_rules(SYCL);
}

// Devices behind rpc-servers, which come before those of this process. Only in an engine built with GGML_RPC.
static std::vector<ggml_backend_dev_t> remotes;

static int device_index(ggml_backend_dev_t dev) {
    if (dev && dev == real_device) {
        return 0;
    }
    for (size_t i = 0; i < remotes.size(); i++) {
        if (dev == remotes[i]) {
            return int(i);
        }
    }
    for (int i = 0; i < MAX_DEVICES; i++) {
        if (dev == &devices[i].dev) {
            return int(remotes.size()) + i;
        }
    }
    return -1;
}

template <typename F> static F of_rpc(const char * name) {
    ggml_backend_reg_t rpc = ggml_backend_reg_by_name("RPC");
    return rpc ? reinterpret_cast<F>(ggml_backend_reg_get_proc_address(rpc, name)) : nullptr;
}

// The next load also has the devices of the rpc-server at `endpoint`: how many; -1: no RPC in this build, or no answer.
EXPORT int vf_server(const char * endpoint) {
    const auto add = of_rpc<ggml_backend_reg_t (*)(const char *)>("ggml_backend_rpc_add_server");
    ggml_backend_reg_t server = add ? add(endpoint) : nullptr;
    if (!server) {
        return -1;
    }
    const size_t n = ggml_backend_reg_dev_count(server);
    for (size_t i = 0; i < n; i++) {
        remotes.push_back(ggml_backend_reg_dev_get(server, i));
    }
    return int(n);
}

// Be an rpc-server for the first `n` memory-only devices, for good; false: no RPC in this build.
EXPORT bool vf_serve(const char * endpoint, int n) {
    const auto serve = of_rpc<void (*)(const char *, const char *, size_t, size_t, ggml_backend_dev_t *)>(
        "ggml_backend_rpc_start_server");
    std::vector<ggml_backend_dev_t> offered;
    for (int i = 0; i < n; i++) {
        offered.push_back(&devices[i].dev);
    }
    if (serve) {
        serve(endpoint, nullptr, 1, offered.size(), offered.data());
    }
    return serve != nullptr;
}

static bool really = false;

// Whether the next loads allocate in earnest, for which the file must hold all its tensors.
EXPORT void vf_really(bool allocate) { really = allocate; }

// -------------------------------------------------------------------------------------------- scheduler

#include "allocator.inc"

typedef void (*graph_callback)(ggml_cgraph *);
typedef void (*allocation_callback)(ggml_cgraph *, const int64_t *);

static bool probing = true;              // before the first reservation the engine only asks who supports what
static const bool projecting = std::getenv("VRAMFIT_PROJECTION");  // leave the engine its own dry run, as its --fit has it
static bool busy = false;                // the engine's own functions call each other by name, too
static graph_callback on_graph = nullptr;
static allocation_callback on_allocation = nullptr;
static ggml_backend_sched_t last_sched = nullptr;
static std::unordered_map<const ggml_tensor *, int> pins;

template <typename F> static F next(const char * name, F) {
    return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}
#define NEXT(f) static const auto real = next(#f, &f)

// Metal's order compares addresses of caches, which a load without memory has none of: they get those that the
// allocator gives them, one behind the other in the order in which they were made.
static void lay_out(ggml_cgraph * graph) {
    std::set<ggml_tensor *> roots;  // sorted by address: the order of a context
    auto add = [&](ggml_tensor * t) {
        t = t && t->view_src ? t->view_src : t;
        if (t && t->buffer && !t->data) {
            roots.insert(t);
        }
    };
    for (int i = 0; i < graph->n_leafs; i++) {
        add(graph->leafs[i]);
    }
    for (int i = 0; i < graph->n_nodes; i++) {
        add(graph->nodes[i]);
        std::for_each(graph->nodes[i]->src, graph->nodes[i]->src + GGML_MAX_SRC, add);
    }
    std::unordered_map<ggml_backend_buffer_t, size_t> ends;
    metal::addresses.clear();
    for (ggml_tensor * t : roots) {
        size_t & end = ends.emplace(t->buffer, size_t(1) << 40).first->second;
        metal::addresses.emplace_back(t, end);
        end += GGML_PAD(ggml_backend_buft_get_alloc_size(t->buffer->buft, t), ggml_backend_buft_get_alignment(t->buffer->buft));
    }
}

static void take(ggml_backend_sched_t sched, ggml_cgraph * graph) {
    last_sched = sched;
    if (on_graph) {
        on_graph(graph);
        if (!on_allocation) {
            return;
        }
    }
    if (rules == METAL && !on_real) {
        lay_out(graph);
    }
    busy = true;
    ggml_backend_sched_reserve(sched, graph);
    busy = false;
    metal::addresses.clear();
}

// The first of the three passes of a context's start. The original resets the scheduler first, and
// so forgets what the caller has pinned: the reservation that follows it in earnest does not.
EXPORT void ggml_backend_sched_reserve_size(ggml_backend_sched_t sched, ggml_cgraph * graph, size_t * sizes) {
    if (projecting) {
        NEXT(ggml_backend_sched_reserve_size);
        real(sched, graph, sizes);
        return;
    }
    probing = false;
    take(sched, graph);
    std::fill_n(sizes, ggml_backend_sched_get_n_backends(sched), 0);
}

EXPORT void ggml_backend_sched_split_graph(ggml_backend_sched_t sched, ggml_cgraph * graph) {
    NEXT(ggml_backend_sched_split_graph);
    if (busy || probing) {
        real(sched, graph);
    } else {
        take(sched, graph);
    }
}

// What the scheduler makes of a graph: with the splits' copies and the allocation dependencies of the backends.
// For each leaf, then each node: backend, offset in its buffer and bytes there, the last two -1 where there is no
// block of its own (views, weights, caches).
EXPORT bool ggml_gallocr_reserve_n(ggml_gallocr_t galloc, ggml_cgraph * graph, const int * node_ids, const int * leaf_ids) {
    NEXT(ggml_gallocr_reserve_n);
    const bool done = real(galloc, graph, node_ids, leaf_ids);
    if (busy && on_allocation) {
        std::vector<int64_t> rows;
        auto add = [&](const ggml_tensor * tensor, int backend, const tensor_alloc & t) {
            const bool own = t.buffer_id >= 0 && !tensor->buffer;  // without memory, weights have a buffer alone
            rows.insert(rows.end(), { backend, own ? int64_t(t.addr.offset) : -1, own ? int64_t(t.size_max) : -1 });
        };
        for (int i = 0; i < graph->n_leafs; i++) {
            add(graph->leafs[i], leaf_ids[i], galloc->leaf_allocs[i].leaf);
        }
        for (int i = 0; i < graph->n_nodes; i++) {
            add(graph->nodes[i], node_ids[i], galloc->node_allocs[i].dst);
        }
        on_allocation(graph, rows.data());
    }
    return done;
}

EXPORT void ggml_backend_sched_reset(ggml_backend_sched_t sched) {
    NEXT(ggml_backend_sched_reset);
    pins.clear();
    real(sched);
}

EXPORT void ggml_backend_sched_set_tensor_backend(ggml_backend_sched_t sched, ggml_tensor * node, ggml_backend_t backend) {
    NEXT(ggml_backend_sched_set_tensor_backend);
    pins[node] = device_index(ggml_backend_get_device(backend));
    real(sched, node, backend);
}

// Large host buffers are mapped without reserving memory: nothing is ever written to them.
EXPORT void * ggml_aligned_malloc(size_t size) {
    NEXT(ggml_aligned_malloc);
    if (size < (size_t(64) << 20)) {
        return real(size);
    }
    void * p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? nullptr : p;
}

EXPORT void ggml_aligned_free(void * p, size_t size) {
    NEXT(ggml_aligned_free);
    if (p && size >= (size_t(64) << 20)) {
        munmap(p, size);
    } else {
        real(p, size);
    }
}

// ------------------------------------------------------------------------------------------------ access

// The device of a buffer type: its index, or -1 for any host memory.
static int home(ggml_backend_buffer_type_t buft) {
    return buft == &host_buft || ggml_backend_buft_is_host(buft) ? -1 : device_index(ggml_backend_buft_get_device(buft));
}

// out: (MAX_DEVICES + 1) x (model, context, compute); the last row is the host.
EXPORT void vf_breakdown(const llama_context * ctx, int64_t * out) {
    auto row = [&](ggml_backend_buffer_type_t buft) { int i = home(buft); return out + 3 * (i < 0 ? MAX_DEVICES : i); };
    for (const auto & [buft, data] : llama_get_memory_breakdown(ctx)) {
        row(buft)[0] += data.model;
        row(buft)[1] += data.context;
        row(buft)[2] += projecting || !last_sched ? data.compute : 0;  // really allocated: the engine's own account
    }
    for (int i = 0; last_sched && i < ggml_backend_sched_get_n_backends(last_sched); i++) {
        ggml_backend_t backend = ggml_backend_sched_get_backend(last_sched, i);
        row(ggml_backend_sched_get_buffer_type(last_sched, backend))[2] += ggml_backend_sched_get_buffer_size(last_sched, backend);
    }
}

// What the scheduler holds now; out: copies, splits, bytes of each backend. Returns the number of backends.
EXPORT int vf_schedule(int64_t * out) {
    const int n = ggml_backend_sched_get_n_backends(last_sched);
    *out++ = ggml_backend_sched_get_n_copies(last_sched);
    *out++ = ggml_backend_sched_get_n_splits(last_sched);
    for (int i = 0; i < n; i++) {
        *out++ = ggml_backend_sched_get_buffer_size(last_sched, ggml_backend_sched_get_backend(last_sched, i));
    }
    return n;
}

// What a graph's tensor needs beside its plain structure: home << 8 | pin << 16 | usage.
// home: 0 none, 1 plain host memory, 2 pinned host buffer, 3 + i device i; pin: 0 none, 1 host, 2 + i device i.
EXPORT int vf_place(const ggml_tensor * t) {
    int place = 0;
    if (t->buffer) {
        const int i = home(t->buffer->buft);
        place = t->buffer->usage | (t->buffer->buft == &host_buft ? 2 : i < 0 ? 1 : 3 + i) << 8;
    }
    const auto pin = pins.find(t);
    return place | (pin == pins.end() ? 0 : 2 + pin->second) << 16;
}

// --------------------------------------------------------------------------------------------- one load

// llama_context::sched_reserve, whose header drags in the whole engine
extern "C" void _ZN13llama_context13sched_reserveEv(llama_context * ctx);

// What is allocated for tensors of no model: the shim stands in front of the function, as in front of the scheduler's.
static std::vector<std::pair<ggml_backend_buffer_type_t, size_t>> allocations;

EXPORT ggml_backend_buffer_t ggml_backend_alloc_ctx_tensors_from_buft(ggml_context * ctx, ggml_backend_buffer_type_t buft) {
    NEXT(ggml_backend_alloc_ctx_tensors_from_buft);
    ggml_backend_buffer_t buffer = real(ctx, buft);
    if (buffer) {
        allocations.push_back({ buft, ggml_backend_buffer_get_size(buffer) });
    }
    return buffer;
}

static std::string complaint;  // the first error of a load: the later ones say less

EXPORT const char * vf_complaint() { return complaint.c_str(); }

// A failed assertion would end the process. As an exception it ends the load: libllama reports it like any
// other (what the C frames between hold is leaked, which a tool can bear).
[[noreturn]] static void on_abort(const char * message) {
    throw std::runtime_error(std::string("aborted: ") + message);
}

EXPORT void vf_start() {
    ggml_set_abort_callback(on_abort);
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR && complaint.empty()) {
            complaint = text;
        }
    }, nullptr);
    llama_backend_init();
    ggml_backend_register(vf_registry());
}

static bool load_mtp = false;  // whether models are loaded with their next-token-prediction blocks

EXPORT void vf_load_mtp(bool on) { load_mtp = on; }

// A model from a file or from metadata, without memory. `patterns`: tensors to keep on the host, NULL-terminated.
EXPORT llama_model * vf_model(const char * path, gguf_context * metadata, int n_devices, int n_gpu_layers, int split_mode,
                              const float * tensor_split, const char * const * patterns) {
    static std::vector<ggml_backend_dev_t> devs;
    static std::vector<llama_model_tensor_buft_override> overrides;
    complaint.clear();
    devs.clear();
    overrides.clear();
    devs = remotes;
    for (int i = 0; i < n_devices; i++) {
        devs.push_back(on_real ? real_device : &devices[i].dev);
    }
    devs.push_back(nullptr);
    for (; *patterns; patterns++) {
        overrides.push_back({ *patterns, ggml_backend_cpu_buffer_type() });
    }
    const bool any = !overrides.empty();
    overrides.push_back({ nullptr, nullptr });
    llama_model_params p = llama_model_default_params();
    p.devices = devs.data();
    p.tensor_buft_overrides = any ? overrides.data() : nullptr;
    p.n_gpu_layers = n_gpu_layers;
    p.split_mode = llama_split_mode(split_mode);
    p.tensor_split = tensor_split;
    p.load_mode = LLAMA_LOAD_MODE_NONE;
    p.no_alloc = !really;
    p.load_mtp = load_mtp;
    p.progress_callback = [](float, void *) { return true; };
    return metadata ? llama_model_init_from_user(metadata, [](ggml_tensor *, void *) {}, nullptr, p)
                    : llama_model_load_from_file(path, p);
}

struct vf_settings {
    uint32_t n_ctx, n_batch, n_ubatch, n_seq_max, n_outputs_max;
    int32_t flash_attn, type_k, type_v, pooling_type;
    int32_t kv_unified, offload_kqv, swa_full, op_offload, embeddings;
    int32_t n_rs_seq, next_tokens;
};

// The inputs of these layers are kept for a draft, as llama-server asks of a target; what is reserved then.
EXPORT bool vf_tap(llama_context * ctx, const uint32_t * layers, int n) {
    complaint.clear();
    try {
        for (int i = 0; i < n; i++) {
            llama_set_embeddings_layer_inp(ctx, layers[i], true);
        }
        _ZN13llama_context13sched_reserveEv(ctx);
    } catch (const std::exception & e) {
        complaint = e.what();
        return false;
    }
    return true;
}

// The context that the next ones are made beside (ctx_other), null for none.
static llama_context * other = nullptr;
EXPORT void vf_beside(llama_context * ctx) { other = ctx; }

EXPORT llama_context * vf_context(llama_model * model, const vf_settings * s, graph_callback graphs,
                                  allocation_callback allocations) {
    complaint.clear();
    probing = true;
    on_graph = graphs;
    on_allocation = allocations;
    last_sched = nullptr;
    pins.clear();
    llama_context_params p = llama_context_default_params();
    p.n_ctx = s->n_ctx;
    p.n_batch = s->n_batch;
    p.n_ubatch = s->n_ubatch;
    p.n_seq_max = s->n_seq_max;
    p.n_outputs_max = s->n_outputs_max;
    p.flash_attn_type = (enum llama_flash_attn_type) s->flash_attn;
    p.type_k = ggml_type(s->type_k);
    p.type_v = ggml_type(s->type_v);
    p.pooling_type = (enum llama_pooling_type) s->pooling_type;
    p.kv_unified = s->kv_unified;
    p.offload_kqv = s->offload_kqv;
    p.swa_full = s->swa_full;
    p.op_offload = s->op_offload;
    p.embeddings = s->embeddings;
    p.n_rs_seq = s->n_rs_seq;
    p.ctx_type = s->next_tokens ? LLAMA_CONTEXT_TYPE_MTP : p.ctx_type;
    p.n_threads = p.n_threads_batch = 1;
    p.ctx_other = other;
    return llama_init_from_model(model, p);
}

// The graph of one ubatch, as the architecture builds it, shown to the callback of `vf_context`.
EXPORT bool vf_graph(llama_context * ctx, uint32_t n_tokens, uint32_t n_seqs, uint32_t n_outputs) {
    try {
        return llama_graph_reserve(ctx, n_tokens, n_seqs, n_outputs) != nullptr;
    } catch (const std::exception & e) {
        complaint = e.what();
        return false;
    }
}

// Compute `n` tokens, one after the other, and fetch the logits of each. The devices must be real ones.
EXPORT bool vf_decode(llama_context * ctx, int n) {
    llama_token token = 1;
    for (int i = 0; i < n; i++) {
        if (llama_decode(ctx, llama_batch_get_one(&token, 1))) {
            return false;
        }
        llama_get_logits(ctx);
    }
    return true;
}

// Adapters that are told to a context of a model, and what is reserved again with them. `paths` and `scales` are of LoRA
// files, `layers` the number of those that a control vector has (0: none). out: bytes of what they allocate, by device,
// the host last.
EXPORT bool vf_adapt(llama_model * model, llama_context * ctx, const char * const * paths, float * scales, int n_embd,
                     int layers, int64_t * out) {
    complaint.clear();
    allocations.clear();
    try {
        std::vector<llama_adapter_lora *> adapters;
        for (; *paths; paths++) {
            adapters.push_back(llama_adapter_lora_init(model, *paths));
            if (!adapters.back()) {
                return false;
            }
        }
        if (!adapters.empty()) {
            llama_set_adapters_lora(ctx, adapters.data(), adapters.size(), scales);
        }
        std::vector<float> directions(size_t(layers) * n_embd);
        if (layers && llama_set_adapter_cvec(ctx, directions.data(), directions.size(), n_embd, 1, layers)) {
            return false;
        }
        for (const auto & [buft, size] : allocations) {
            const int i = home(buft);
            out[i < 0 ? MAX_DEVICES : i] += size;
        }
        _ZN13llama_context13sched_reserveEv(ctx);
    } catch (const std::exception & e) {
        complaint = e.what();
        return false;
    }
    return true;
}

// Reserves a context of next-token blocks again, as if the block of this number ran and not the first.
EXPORT bool vf_next_block(llama_context * ctx, int block) {
    complaint.clear();
    try {
        llama_set_nextn_layer_offset(ctx, block);
        llama_set_embeddings_layer_inp(ctx, 0, false);  // for no other reason than that it asks for a reservation
        _ZN13llama_context13sched_reserveEv(ctx);
    } catch (const std::exception & e) {
        complaint = e.what();
        return false;
    }
    return true;
}

// What the engine's own forecast says of a projector: bytes of its weights, unpadded, and of its reserve. `measure` and
// `defaults` are functions of libmtmd. out: bytes on the device, on the host, and of the device's weights as allocated.
EXPORT bool vf_projector(void * measure, void * defaults, const char * path, bool use_gpu, int flash_attn, int min_tokens,
                         int max_tokens, int64_t * out) {
    complaint.clear();
    allocations.clear();
    probing = false;
    on_graph = nullptr;
    on_allocation = nullptr;
    auto * of = reinterpret_cast<decltype(&mtmd_get_memory_usage)>(measure);
    mtmd_context_params p = reinterpret_cast<decltype(&mtmd_context_params_default)>(defaults)();
    p.use_gpu = use_gpu;
    p.device = use_gpu ? &devices[0].dev : nullptr;
    p.flash_attn_type = (enum llama_flash_attn_type) flash_attn;
    p.image_min_tokens = min_tokens;
    p.image_max_tokens = max_tokens;
    try {
        const auto found = of(path, p);
        for (const auto & [dev, size] : found) {
            out[dev == &devices[0].dev ? 0 : 1] += size;
        }
        for (const auto & [buft, size] : allocations) {
            out[home(buft) < 0 ? 3 : 2] += size;
        }
        return !found.empty();
    } catch (const std::exception & e) {
        complaint = e.what();
        return false;
    }
}

EXPORT int vf_n_types() { return GGML_TYPE_COUNT; }

EXPORT int vf_tensors(const llama_model * model, const ggml_tensor ** out, int n_max) {
    int n = 0;
    for (const auto & [name, tensor] : llama_internal_get_tensor_map(model)) {
        if (n < n_max) {
            out[n] = tensor;
        }
        n++;
    }
    return n;
}
