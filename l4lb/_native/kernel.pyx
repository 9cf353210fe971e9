# The programs of l4lb/_kernel, through libbpf, which the field uses for that. Control thread only: whatever is called
# here may take milliseconds and needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, but for reading and writing of maps.
#
# Built where clang and libbpf's headers are; `l4lb.engine.kernel` says what to install where it is missing.
"""Programs and maps in the kernel; see `l4lb.engine.kernel` for the interface to use."""

from cpython.array cimport array
from cython cimport final
from libc.errno cimport ENOENT, errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strerror

from l4lb._native.convert cimport indices_of, zeroed

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_SHARED
    void *MAP_FAILED
    void *mmap(void *at, size_t size, int access, int how, int fd, long offset)
    int munmap(void *at, size_t size)

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
    bpf_map *bpf_object__next_map(const bpf_object *self, const bpf_map *before)
    int libbpf_num_possible_cpus()
    int bpf_program__fd(const bpf_program *self)
    int bpf_program__set_log_buf(bpf_program *self, char *log, size_t size)
    void *libbpf_set_print(void *function)

cdef extern from "bpf/bpf.h" nogil:
    int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags)
    int bpf_map_lookup_elem(int fd, const void *key, void *value)
    int bpf_map_delete_elem(int fd, const void *key)
    int bpf_map_lookup_batch(
        int fd, void *after, void *last, void *keys, void *values, uint32_t *count, const void *options
    )
    int bpf_link_create(int program, int device, int kind, const void *options)
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

cdef extern from *:
    """
    #include <linux/types.h>
    #include "layout.h"
    """
    cdef struct endpoint:
        pass
    cdef struct service:
        pass
    cdef struct backend:
        pass
    cdef struct counts:
        pass
    cdef struct flow_key:
        pass
    cdef struct flow:
        uint64_t seen
        uint32_t backend
        uint32_t number
        uint8_t ended
    cdef struct answer:
        pass
    cdef struct denied_key:
        pass
    enum:
        SERVICES_MAX
        BACKENDS_MAX

cdef enum:
    LOG_BYTES = 1 << 20
    LAST_KEY_BYTES = 64
    BATCH = 4096

CPUS = libbpf_num_possible_cpus()  # as maps with a value for each of them count
ATTACH_XDP = 37                   # enum bpf_attach_type of linux/bpf.h
ATTACH_TCX_INGRESS = 46           # ... since Linux 6.6


cdef int check(int result, str what) except -1:
    """libbpf 1.x returns -errno."""
    if result < 0:
        raise OSError(-result, f"{what}: {strerror(-result).decode()}")
    return 0


@final
cdef class Program:
    """One program with its maps, loaded. `image` is an object file, `sizes` how many entries maps have, by name;
    `other`: a program whose maps of the same names are used.

    OSError when the kernel does not take it, with the end of what its verifier said. Closing this unloads the program,
    unless it is attached; then its links go on.
    """
    cdef bpf_object *object
    cdef bpf_program *program

    def __cinit__(self, bytes image not None, str name not None, dict sizes not None, Program other):
        cdef char *log
        cdef bpf_map *map_ = NULL
        cdef int result
        libbpf_set_print(NULL)
        self.object = bpf_object__open_mem(<const char *>image, len(image), NULL)
        if self.object == NULL:
            raise OSError(ENOENT, "no object file of a program for the kernel")
        self.program = bpf_object__find_program_by_name(self.object, name.encode())
        if self.program == NULL:
            raise OSError(ENOENT, f"no program of the name {name}")
        for map_name, entries in sizes.items():
            check(bpf_map__set_max_entries(self.map(map_name), entries), map_name)
        if other is not None:
            map_ = bpf_object__next_map(self.object, NULL)
            while map_ != NULL:
                check(bpf_map__reuse_fd(map_, other.map_fd(bpf_map__name(map_).decode())), "maps")
                map_ = bpf_object__next_map(self.object, map_)
        log = <char *>zeroed(LOG_BYTES, 1)
        try:
            bpf_program__set_log_buf(self.program, log, LOG_BYTES)
            result = bpf_object__load(self.object)
            if result < 0:
                lines = (<bytes>log).decode(errors="replace").strip().splitlines()
                said = lines[max(len(lines) - 3, 0):]
                raise OSError(-result, f"{strerror(-result).decode()}{': ' if said else ''}{'; '.join(said)}")
        finally:
            free(log)

    def __dealloc__(self):
        if self.object != NULL:
            bpf_object__close(self.object)

    cdef bpf_map *map(self, str name) except NULL:
        cdef bpf_map *found = bpf_object__find_map_by_name(self.object, name.encode())
        if found == NULL:
            raise KeyError(name)
        return found

    def map_fd(self, str name not None):
        """The descriptor of a map, which stays this program's. KeyError."""
        return bpf_map__fd(self.map(name))

    def attach(self, int device, int kind, uint32_t flags):
        """A descriptor: while it is open, packets that come in by the device (its index) go through the program. `kind`
        is ATTACH_XDP or ATTACH_TCX_INGRESS; `flags`, of XDP: XDP_FLAGS_DRV_MODE or XDP_FLAGS_SKB_MODE.

        OSError: EBUSY, another program is there; EOPNOTSUPP, EINVAL, the device or kernel cannot; ENODEV; EPERM.
        """
        cdef bpf_link_create_opts options
        memset(&options, 0, sizeof(options))
        options.sz = sizeof(options)
        options.flags = flags
        cdef int fd = bpf_link_create(bpf_program__fd(self.program), device, kind, &options if flags else NULL)
        check(fd, "attach")
        return fd

    def test(self, bytes packet not None, int room=256):
        """Run it once with a packet that came in by no device: (verdict, what became of the packet)."""
        cdef bpf_test_run_opts options
        cdef bytes out = bytes(len(packet) + room)
        memset(&options, 0, sizeof(options))
        options.sz = sizeof(options)
        options.data_in = <const char *>packet
        options.data_size_in = len(packet)
        options.data_out = <char *>out
        options.data_size_out = len(out)
        options.repeat = 1
        check(bpf_prog_test_run_opts(bpf_program__fd(self.program), &options), "test")
        return options.retval, out[:options.data_size_out]


@final
cdef class Memory:
    """The entries of a map that may be mapped, `size` bytes. Programs read what is written here at once."""
    cdef uint8_t *bytes_
    cdef size_t size

    def __cinit__(self, int fd, size_t size):
        cdef void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if mapped == MAP_FAILED:
            raise OSError(errno, strerror(errno).decode())
        self.bytes_ = <uint8_t *>mapped
        self.size = size

    def __dealloc__(self):
        if self.bytes_ != NULL:
            munmap(self.bytes_, self.size)

    def write(self, size_t at, bytes data not None):
        if at > self.size or len(data) > self.size - at:
            raise IndexError("beyond the map")
        memcpy(self.bytes_ + at, <const char *>data, len(data))

    def fill(self, size_t first_word, array slots not None, array places not None):
        """A table of 16 bits a slot, from a word on: for each of `slots`, an index into `places`, that place."""
        cdef uint16_t *table = <uint16_t *>(self.bytes_ + 8 * first_word)
        cdef const uint32_t *from_ = indices_of(slots)
        cdef const uint32_t *place = indices_of(places)
        cdef uint32_t count = len(slots), places_count = len(places), i
        if first_word > self.size // 8 or count > 4 * (self.size // 8 - first_word):
            raise IndexError("beyond the map")
        for i in range(count):
            if from_[i] >= places_count or place[from_[i]] > 0xFFFF:
                raise ValueError("a slot names no backend")
            table[i] = <uint16_t>place[from_[i]]


def update(int fd, bytes key not None, bytes value not None):
    check(bpf_map_update_elem(fd, <const char *>key, <const char *>value, 0), "update")


def delete(int fd, bytes key not None):
    """Whether it was there."""
    cdef int result = bpf_map_delete_elem(fd, <const char *>key)
    if result == -ENOENT:
        return False
    check(result, "delete")
    return True


def lookup(int fd, bytes key not None, int size):
    """None when it is not there. `size` of the value; of a map with a value for each CPU: of all of them together."""
    cdef bytes value = bytes(size)
    cdef int result = bpf_map_lookup_elem(fd, <const char *>key, <char *>value)
    if result == -ENOENT:
        return None
    check(result, "lookup")
    return value


def flows(int fd, uint64_t since):
    """Of a map of flows, those that have not ended and had a packet since that time (ns, monotonic): how many, by
    service's number and by backend's index."""
    cdef flow *values = <flow *>malloc(BATCH * sizeof(flow))
    cdef flow_key *keys = <flow_key *>malloc(BATCH * sizeof(flow_key))
    cdef uint32_t *by_service = <uint32_t *>zeroed(SERVICES_MAX, sizeof(uint32_t))
    cdef uint32_t *by_backend = <uint32_t *>zeroed(BACKENDS_MAX, sizeof(uint32_t))
    cdef uint8_t after[LAST_KEY_BYTES]
    cdef uint8_t last[LAST_KEY_BYTES]
    cdef uint32_t count, i
    cdef bint first = True
    cdef int result = 0
    try:
        if values == NULL or keys == NULL:
            raise MemoryError()
        while result == 0:
            count = BATCH
            with nogil:
                result = bpf_map_lookup_batch(fd, NULL if first else after, last, keys, values, &count, NULL)
            if result < 0 and result != -ENOENT:
                check(result, "flows")
            for i in range(count):
                if values[i].seen >= since and not values[i].ended:
                    by_service[values[i].number % <int>SERVICES_MAX] += 1
                    by_backend[values[i].backend % <int>BACKENDS_MAX] += 1
            after = last
            first = False
        return (
            {i: by_service[i] for i in range(<uint32_t>SERVICES_MAX) if by_service[i]},
            {i: by_backend[i] for i in range(<uint32_t>BACKENDS_MAX) if by_backend[i]},
        )
    finally:
        free(values)
        free(keys)
        free(by_service)
        free(by_backend)


def sizes():
    """Of what control and the programs share, by name: a test holds `l4lb.engine.kernel.layout` to it."""
    return {
        "endpoint": sizeof(endpoint),
        "service": sizeof(service),
        "backend": sizeof(backend),
        "counts": sizeof(counts),
        "flow_key": sizeof(flow_key),
        "flow": sizeof(flow),
        "answer": sizeof(answer),
        "denied_key": sizeof(denied_key),
    }
