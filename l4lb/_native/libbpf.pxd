# What is used of libbpf 1.x, whose functions return -errno; see bpf(2) and bpf-helpers(7).

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "bpf/libbpf.h" nogil:
    cdef struct bpf_object:
        pass
    cdef struct bpf_map:
        pass
    cdef struct bpf_program:
        pass
    bpf_object *bpf_object__open_mem(const void *image, size_t size, const void *options)
    int bpf_object__load(bpf_object *self)
    void bpf_object__close(bpf_object *self)
    bpf_map *bpf_object__find_map_by_name(const bpf_object *self, const char *name)
    bpf_program *bpf_object__find_program_by_name(const bpf_object *self, const char *name)
    int bpf_map__fd(const bpf_map *self)
    int bpf_map__set_max_entries(bpf_map *self, uint32_t entries)
    int bpf_map__reuse_fd(bpf_map *self, int fd)
    const char *bpf_map__name(const bpf_map *self)
    uint32_t bpf_map__type(const bpf_map *self)
    uint32_t bpf_map__key_size(const bpf_map *self)
    uint32_t bpf_map__value_size(const bpf_map *self)
    uint32_t bpf_map__max_entries(const bpf_map *self)
    uint32_t bpf_map__map_flags(const bpf_map *self)
    bpf_map *bpf_object__next_map(const bpf_object *self, const bpf_map *before)
    int libbpf_num_possible_cpus()
    int bpf_program__fd(const bpf_program *self)
    int bpf_program__set_log_buf(bpf_program *self, char *log, size_t size)
    void *libbpf_set_print(void *function)

cdef extern from "bpf/bpf.h" nogil:
    int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags)
    int bpf_map_lookup_elem(int fd, const void *key, void *value)
    int bpf_map_delete_elem(int fd, const void *key)
    int bpf_link_create(int program, int device, int kind, const void *options)
    int bpf_link_update(int link, int program, const void *options)
    int bpf_obj_pin(int fd, const char *path)
    int bpf_obj_get(const char *path)
    int bpf_obj_get_info_by_fd(int fd, void *info, uint32_t *size)
    int bpf_map_get_next_key(int fd, const void *key, void *next)
    cdef struct bpf_test_run_opts:
        size_t sz
        const void *data_in
        void *data_out
        uint32_t data_size_in
        uint32_t data_size_out
        const void *ctx_in
        uint32_t ctx_size_in
        uint32_t retval
        uint32_t repeat
        uint32_t duration
    cdef struct bpf_link_create_opts:
        size_t sz
        uint32_t flags
    int bpf_prog_test_run_opts(int program, bpf_test_run_opts *options)

cdef extern from "<linux/bpf.h>" nogil:
    cdef struct bpf_map_info:
        uint32_t type
        uint32_t key_size
        uint32_t value_size
        uint32_t max_entries
        uint32_t map_flags

cdef extern from *:
    """
    /* struct bpf_link_info up to what is read of it; tcx is newer than Debian 12's headers. */
    struct link_info {
        __u32 type, id, prog_id;
        union {
            struct { __u32 ifindex; } xdp;
            struct { __u32 ifindex, attach_type; } tcx;
            __u64 other[16];
        } __attribute__((aligned(8)));
    };
    struct object_info { __u32 type, id; };   /* how struct bpf_prog_info begins */
    """
    cdef struct link_of_xdp:
        uint32_t ifindex
    cdef struct object_info:
        uint32_t type
        uint32_t id
    cdef struct link_info:
        uint32_t type
        uint32_t prog_id
        link_of_xdp xdp
        link_of_xdp tcx
