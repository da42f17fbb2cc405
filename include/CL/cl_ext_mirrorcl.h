/* SPDX-License-Identifier: Apache-2.0 */
/* MirrorCL's own extensions of OpenCL: what the mirror has done on behalf of a device, and where memory lives. */
#ifndef CL_EXT_MIRRORCL_H_
#define CL_EXT_MIRRORCL_H_

#include <CL/cl.h>

#ifdef __cplusplus
extern "C" {
#endif

/***************************************************************
 * cl_mirrorcl_statistics
 *
 * Counts page faults, migrations and replays, for all devices of the process together and for each. Counters start at
 * zero when the device starts and only grow; take the difference of two readings. Reading costs no system call and may
 * be done while kernels run. The text of the extension is docs/extensions/cl_mirrorcl_statistics.md.
 ***************************************************************/
#define cl_mirrorcl_statistics 1
#define CL_MIRRORCL_STATISTICS_EXTENSION_NAME "cl_mirrorcl_statistics"

/* May grow at the end in later versions; existing members stay. */
typedef struct _cl_mirror_statistics_mirrorcl {
  cl_ulong device_faults;        /* page faults of the device that were served */
  cl_ulong device_faults_failed; /* page faults of the device that ended in an error */
  cl_ulong cpu_faults;           /* page faults of the application's threads on pages away from the host */
  cl_ulong replays;              /* device accesses released after service */
  cl_ulong pages_to_device;      /* pages (4 KiB) whose contents were copied to device memory */
  cl_ulong bytes_to_device;
  cl_ulong pages_zero_filled; /* pages the host had never touched, given to the device without a copy */
  cl_ulong pages_to_host;     /* pages copied back */
  cl_ulong bytes_to_host;
  cl_ulong coherent_upgrades; /* pages mapped for both sides because they went back and forth */
  cl_ulong snapshot_pages;    /* read-only copies of memory that cannot be mirrored (private file mappings) */
  cl_ulong events_unmap;      /* changes of the host's address space that were applied */
  cl_ulong events_remap;
  cl_ulong events_remove;
  cl_ulong retries;          /* operations repeated because such a change came between */
  cl_ulong device_losses;    /* times the device process died */
  cl_ulong pages_duplicated; /* of pages_to_host, those that the device kept too because they were only read */
  cl_ulong bytes_brought_for_launches; /* of bytes_to_device, those that came before the launch that names them began */
} cl_mirror_statistics_mirrorcl;

/*
 * Writes the first `size` bytes of the statistics of all devices of the process together to `statistics` (may be NULL),
 * and the size this driver knows to `size_ret` (may be NULL). An application built against an older, shorter structure
 * works: it gets what it asks for. Before the device has started all counters are zero.
 *
 * CL_INVALID_DEVICE  if `device` is not a valid device of this platform.
 * CL_INVALID_VALUE   if `size` is greater than the size this driver knows and `statistics` is not NULL, or if both
 *                    pointers are NULL.
 *
 * Found with clGetExtensionFunctionAddressForPlatform(platform, "clGetMirrorStatisticsMIRRORCL").
 */
typedef cl_int(CL_API_CALL* clGetMirrorStatisticsMIRRORCL_fn)(cl_device_id device, size_t size,
                                                              cl_mirror_statistics_mirrorcl* statistics,
                                                              size_t* size_ret);

/* What one device has done, and what was done for it. Stays as it is: further counters will be further queries. */
typedef struct _cl_device_mirror_statistics_mirrorcl {
  cl_ulong faults;             /* page faults of the device, those included that ended in an error */
  cl_ulong faults_failed;      /* page faults of the device that ended in an error */
  cl_ulong pages_in;           /* pages (4 KiB) that came from the application, or copies of them */
  cl_ulong pages_home;         /* pages that went there, or copies of them */
  cl_ulong pages_from_devices; /* pages that came from other devices' memory, or copies of them */
  cl_ulong coherent_upgrades;  /* pages mapped for both sides because they went back and forth */
  cl_ulong evictions;          /* blocks of 2 MiB of which pages left because the device's memory was full */
  cl_ulong losses;             /* times the device process died */
} cl_device_mirror_statistics_mirrorcl;

/* clGetDeviceInfo: cl_device_mirror_statistics_mirrorcl. Asking does not start the device; all are zero before. */
#define CL_DEVICE_MIRROR_STATISTICS_MIRRORCL 0x4D430030

/***************************************************************
 * cl_mirrorcl_hms
 *
 * Which memories the machine has, where memory should live, and where it does. Works on any memory of the process. The
 * text of the extension is docs/extensions/cl_mirrorcl_hms.md.
 ***************************************************************/
#define cl_mirrorcl_hms 1
#define CL_MIRRORCL_HMS_EXTENSION_NAME "cl_mirrorcl_hms"

/* None of the named targets is a memory that this process can use. */
#define CL_INVALID_MEMORY_TARGET_MIRRORCL (-1901)

/*
 * Properties of allocations: the uids of memory targets in order of preference, ended by
 * CL_MEMORY_TARGETS_END_MIRRORCL. The memory lies in the first of them that has room for all of it. cl_mem_properties
 * properties[] = {CL_MEM_TARGETS_MIRRORCL, 5, 1, CL_MEMORY_TARGETS_END_MIRRORCL, 0};
 */
#define CL_MEM_TARGETS_MIRRORCL 0x4D430001       /* clCreateBufferWithProperties */
#define CL_SVM_ALLOC_TARGETS_MIRRORCL 0x4D430002 /* clSVMAllocWithPropertiesMIRRORCL, as is the next */
#define CL_SVM_ALLOC_ALIGNMENT_MIRRORCL 0x4D430003
#define CL_MEMORY_TARGETS_END_MIRRORCL 0xFFFFFFFFu

/* clGetMemObjectInfo: cl_uint, the uid of the target that a buffer was allocated in; CL_MEMORY_TARGETS_END_MIRRORCL if
   its memory is the application's. */
#define CL_MEM_ALLOCATED_TARGET_MIRRORCL 0x4D430010

/* clGetDeviceInfo. Asking starts the device. */
#define CL_DEVICE_INITIATOR_MIRRORCL 0x4D430020               /* cl_uint: the device's own uid among the initiators */
#define CL_DEVICE_MEMORY_TARGET_MIRRORCL 0x4D430021           /* cl_uint: the uid of the memory that is best for it */
#define CL_DEVICE_MEMORY_NUMA_NODE_MIRRORCL 0x4D430022        /* cl_int: the node that memory lies in; -1: not known */
#define CL_DEVICE_MEMORY_BANDWIDTH_MIRRORCL 0x4D430023        /* cl_ulong: MiB/s from the device; 0: not known */
#define CL_DEVICE_MEMORY_LATENCY_MIRRORCL 0x4D430024          /* cl_ulong: ns from the device; 0: not known */
#define CL_DEVICE_MEMORY_BANDWIDTH_SOURCE_MIRRORCL 0x4D430025 /* cl_uint: CL_FIGURE_..._MIRRORCL */
#define CL_DEVICE_MEMORY_LATENCY_SOURCE_MIRRORCL 0x4D430026   /* cl_uint: likewise */

/* Where a figure comes from. */
#define CL_FIGURE_UNKNOWN_MIRRORCL 0    /* there is none */
#define CL_FIGURE_FIRMWARE_MIRRORCL 1   /* the machine's firmware or driver tells */
#define CL_FIGURE_MEASURED_MIRRORCL 2   /* on this machine */
#define CL_FIGURE_CONFIGURED_MIRRORCL 3 /* somebody wrote it into a file */
#define CL_FIGURE_ASSUMED_MIRRORCL 4    /* usual for hardware of the kind */

/* cl_memory_target_info_mirrorcl.kind */
#define CL_MEMORY_TARGET_OTHER_MIRRORCL 0
#define CL_MEMORY_TARGET_DRAM_MIRRORCL 1
#define CL_MEMORY_TARGET_HBM_MIRRORCL 2
#define CL_MEMORY_TARGET_PERSISTENT_MIRRORCL 3
#define CL_MEMORY_TARGET_CXL_MIRRORCL 4
#define CL_MEMORY_TARGET_DEVICE_MIRRORCL 5

/* cl_memory_target_info_mirrorcl.flags */
#define CL_MEMORY_TARGET_HOST_MIRRORCL (1 << 0)     /* a NUMA node of the host */
#define CL_MEMORY_TARGET_OWN_MIRRORCL (1 << 1)      /* the device's own memory */
#define CL_MEMORY_TARGET_COHERENT_MIRRORCL (1 << 2) /* the device's accesses are coherent */
#define CL_MEMORY_TARGET_ATOMIC_MIRRORCL (1 << 3)   /* its atomics are atomic for everybody */

typedef struct _cl_memory_target_info_mirrorcl {
  cl_uint uid; /* names the target in this process */
  cl_uint kind;
  cl_int numa_node; /* -1: none */
  cl_uint flags;
  cl_ulong size;      /* bytes */
  cl_ulong bandwidth; /* MiB/s from the device; 0: unknown */
  cl_ulong latency;   /* ns from the device; 0: unknown */
  char name[64];      /* "node0"; ends with a zero */
} cl_memory_target_info_mirrorcl;

typedef cl_uint cl_memory_binding_mirrorcl;
#define CL_MEMORY_BINDING_DEFAULT_MIRRORCL 0
#define CL_MEMORY_BINDING_BIND_MIRRORCL 1
#define CL_MEMORY_BINDING_MIGRATE_MIRRORCL 2
#define CL_MEMORY_BINDING_PREFETCH_MIRRORCL 3
#define CL_MEMORY_BINDING_PREFERRED_MIRRORCL 4
#define CL_MEMORY_BINDING_READ_MOSTLY_MIRRORCL 6
#define CL_MEMORY_BINDING_NOT_READ_MOSTLY_MIRRORCL 7

typedef cl_properties cl_svm_alloc_properties_mirrorcl;

/*
 * clSVMAlloc with properties and an error code; `properties` may be NULL. Freed with clSVMFree. In `errcode_ret` (may
 * be NULL), beside the errors of clSVMAlloc: CL_INVALID_PROPERTY, CL_INVALID_MEMORY_TARGET_MIRRORCL, and
 * CL_MEM_OBJECT_ALLOCATION_FAILURE if none of the targets has room.
 */
typedef void*(CL_API_CALL* clSVMAllocWithPropertiesMIRRORCL_fn)(cl_context context,
                                                                const cl_svm_alloc_properties_mirrorcl* properties,
                                                                cl_svm_mem_flags flags, size_t size,
                                                                cl_int* errcode_ret);
typedef cl_int(CL_API_CALL* clGetMemoryTargetsMIRRORCL_fn)(cl_device_id device, cl_uint num_entries,
                                                           cl_memory_target_info_mirrorcl* targets,
                                                           cl_uint* num_targets);
typedef cl_int(CL_API_CALL* clBindMemoryMIRRORCL_fn)(cl_device_id device, const void* pointer, size_t size,
                                                     cl_memory_binding_mirrorcl binding, cl_uint num_targets,
                                                     const cl_uint* targets, cl_ulong* pages_moved);
typedef cl_int(CL_API_CALL* clGetMemoryResidencyMIRRORCL_fn)(cl_device_id device, const void* pointer, size_t size,
                                                             cl_uint num_targets, const cl_uint* targets,
                                                             cl_ulong* pages);

#ifdef __cplusplus
}
#endif

#endif /* CL_EXT_MIRRORCL_H_ */
