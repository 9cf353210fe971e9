# The programs of l4lb/_kernel, through libbpf, which the field uses for that. Control thread only: whatever is called
# here may take milliseconds and needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, but for reading and writing of maps.
#
# Built where clang and libbpf's headers are; `l4lb.engine.kernel` says what to install where it is missing.
"""Programs and maps in the kernel; see `l4lb.engine.kernel` for the interface to use."""

from cpython.array cimport array
from cython cimport final
from libc.errno cimport ENOENT, errno
from libc.stdint cimport uint16_t, uint32_t, uint8_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset, strerror

from l4lb._native.convert cimport indices_of, zeroed
from l4lb._native.libbpf cimport (
    bpf_link_create, bpf_link_create_opts, bpf_link_update, bpf_map, bpf_map__fd, bpf_map__key_size,
    bpf_map__map_flags, bpf_map__max_entries, bpf_map__name, bpf_map__reuse_fd, bpf_map__set_max_entries, bpf_map__type,
    bpf_map__value_size, bpf_map_delete_elem, bpf_map_get_next_key, bpf_map_info,
    bpf_map_lookup_elem, bpf_map_update_elem, bpf_obj_get, bpf_obj_get_info_by_fd, bpf_obj_pin, bpf_object,
    bpf_object__close, bpf_object__find_map_by_name, bpf_object__find_program_by_name, bpf_object__load,
    bpf_object__next_map, bpf_object__open_mem, bpf_prog_test_run_opts, bpf_program, bpf_program__fd,
    bpf_program__set_log_buf, bpf_test_run_opts, libbpf_num_possible_cpus, libbpf_set_print,
    link_info, object_info,
)
from l4lb._native.kernel_flows cimport flow, flow_key

from l4lb._native.reports import MapShape

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_SHARED
    void *MAP_FAILED
    void *mmap(void *at, size_t size, int access, int how, int fd, long offset)
    int munmap(void *at, size_t size)

cdef extern from "<fcntl.h>" nogil:
    enum:
        F_DUPFD_CLOEXEC
    int fcntl(int fd, int command, ...)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    long syscall(long number, ...)

cdef extern from "<sys/syscall.h>" nogil:
    enum:
        SYS_membarrier

cdef extern from "<linux/membarrier.h>" nogil:
    enum:
        MEMBARRIER_CMD_GLOBAL

cdef extern from *:           # layout.h, as kernel_flows.pxd includes it
    const char *L4LB_LAYOUT
    cdef struct endpoint:
        pass
    cdef struct service:
        pass
    cdef struct backend:
        pass
    cdef struct counts:
        pass
    cdef struct answer:
        pass
    cdef struct denied_key:
        pass
    cdef struct place:
        pass
    cdef struct number:
        pass
    cdef struct source:
        pass

cdef enum:
    LOG_BYTES = 1 << 20
    LINK_XDP = 6    # enum bpf_link_type
    LINK_TCX = 11
    KEYS_MAX = 1 << 20              # more than any map has whose keys are read: a walk may begin anew

CPUS = libbpf_num_possible_cpus()  # as maps with a value for each of them count
ATTACH_XDP = 37                   # enum bpf_attach_type of linux/bpf.h
ATTACH_TCX_INGRESS = 46           # ... since Linux 6.6
LAYOUT = L4LB_LAYOUT.decode()     # another one: what is in the maps means something else


cdef int check(int result, str what) except -1:
    """libbpf 1.x returns -errno."""
    if result < 0:
        raise OSError(-result, f"{what}: {strerror(-result).decode()}")
    return 0


@final
cdef class Fd:
    """A descriptor, which is closed with the last reference to this."""
    cdef readonly int number

    def __cinit__(self, int number):
        self.number = number

    def __dealloc__(self):
        close(self.number)

    def fileno(self):
        return self.number


@final
cdef class Program:
    """A program that the kernel has. It is unloaded with the last reference to this, unless it is attached or pinned;
    then that one goes on."""
    cdef readonly Fd fd

    def __cinit__(self, Fd fd not None):
        self.fd = fd

    def fileno(self):
        return self.fd.number

    def attach(self, int device, int kind, uint32_t flags):
        """A link: while there is one, packets that come in by the device (its index) go through the program. `kind` is
        ATTACH_XDP or ATTACH_TCX_INGRESS; `flags`, of XDP: XDP_FLAGS_DRV_MODE or XDP_FLAGS_SKB_MODE.

        OSError: EBUSY, another program is there; EOPNOTSUPP, EINVAL, the device or kernel cannot; ENODEV; EPERM.
        """
        cdef bpf_link_create_opts options
        memset(&options, 0, sizeof(options))
        options.sz = sizeof(options)
        options.flags = flags
        cdef int fd = bpf_link_create(self.fd.number, device, kind, &options if flags else NULL)
        check(fd, "attach")
        return Fd(fd)

    def replace(self, link not None):
        """Packets that come by this link go through this program from now on, none through neither. OSError: EINVAL,
        the link is of another kind; ENOLINK, ENODEV: its device is gone; EPERM, unless they do so already."""
        cdef link_info before
        cdef object_info ours
        cdef uint32_t size = sizeof(before), our_size = sizeof(ours)
        memset(&before, 0, sizeof(before))
        memset(&ours, 0, sizeof(ours))
        check(bpf_obj_get_info_by_fd(link.fileno(), &before, &size), "replace")
        check(bpf_obj_get_info_by_fd(self.fd.number, &ours, &our_size), "replace")
        if before.prog_id != ours.id:
            check(bpf_link_update(link.fileno(), self.fd.number, NULL), "replace")

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
        check(bpf_prog_test_run_opts(self.fd.number, &options), "test")
        return options.retval, out[:options.data_size_out]


cdef bpf_map *named(bpf_object *object_, str name) except NULL:
    cdef bpf_map *found = bpf_object__find_map_by_name(object_, name.encode())
    if found == NULL:
        raise KeyError(name)
    return found


cdef int load_object(bpf_object *object_, bpf_program *program) except -1:
    cdef char *log = <char *>zeroed(LOG_BYTES, 1)
    cdef int result
    try:
        bpf_program__set_log_buf(program, log, LOG_BYTES)
        result = bpf_object__load(object_)
        if result < 0:
            lines = (<bytes>log).decode(errors="replace").strip().splitlines()
            said = lines[max(len(lines) - 3, 0):]
            raise OSError(-result, f"{strerror(-result).decode()}{': ' if said else ''}{'; '.join(said)}")
    finally:
        free(log)
    return 0


cdef Fd copied(int fd):
    """fcntl(2): EMFILE."""
    cdef int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0)
    if copy < 0:
        raise OSError(errno, strerror(errno).decode())
    return Fd(copy)


cdef bpf_object *opened(bytes image) except NULL:
    """An object file, to be closed by who asks. OSError when it is none."""
    cdef bpf_object *object_
    libbpf_set_print(NULL)
    object_ = bpf_object__open_mem(<const char *>image, len(image), NULL)
    if object_ == NULL:
        raise OSError(ENOENT, "no object file of a program for the kernel")
    return object_


def load(bytes image not None, str name not None, sizes not None, maps not None):
    """A program, and its maps by name: those of `maps` (by name, anything with fileno()) where they are there, new ones
    otherwise, with so many entries as `sizes` says. `image` is an object file.

    OSError when the kernel does not take it, with the end of what its verifier said.
    """
    cdef bpf_object *object_
    cdef bpf_program *program
    cdef bpf_map *map_ = NULL
    cdef dict found = {}
    object_ = opened(image)
    try:
        program = bpf_object__find_program_by_name(object_, name.encode())
        if program == NULL:
            raise OSError(ENOENT, f"no program of the name {name}")
        for map_name, entries in sizes.items():
            check(bpf_map__set_max_entries(named(object_, map_name), entries), map_name)
        for map_name, one in maps.items():
            check(bpf_map__reuse_fd(named(object_, map_name), one.fileno()), map_name)
        load_object(object_, program)
        map_ = bpf_object__next_map(object_, NULL)
        while map_ != NULL:
            found[bpf_map__name(map_).decode()] = copied(bpf_map__fd(map_))
            map_ = bpf_object__next_map(object_, map_)
        return Program(copied(bpf_program__fd(program))), found
    finally:
        bpf_object__close(object_)


def declared(bytes image not None):
    """The `MapShape` of each map of an object file by name, as it would be made. OSError when that is no such file."""
    cdef bpf_object *object_
    cdef bpf_map *map_ = NULL
    cdef dict found = {}
    object_ = opened(image)
    try:
        map_ = bpf_object__next_map(object_, NULL)
        while map_ != NULL:
            found[bpf_map__name(map_).decode()] = MapShape(
                bpf_map__type(map_), bpf_map__key_size(map_), bpf_map__value_size(map_), bpf_map__max_entries(map_),
                bpf_map__map_flags(map_),
            )
            map_ = bpf_object__next_map(object_, map_)
        return found
    finally:
        bpf_object__close(object_)


def shape(int fd):
    """The `MapShape` of a map. OSError when it is of no kind that the kernel has for programs; see `type_of`."""
    cdef bpf_map_info info
    cdef uint32_t size = sizeof(info)
    memset(&info, 0, sizeof(info))
    check(bpf_obj_get_info_by_fd(fd, &info, &size), "shape")
    return MapShape(info.type, info.key_size, info.value_size, info.max_entries, info.map_flags)


def type_of(int fd):
    """Which map, program or link it is, of those of its kind: enum bpf_map_type, bpf_prog_type, bpf_link_type of
    linux/bpf.h. Which of these three kinds it is must be known. OSError when it is of none."""
    return shape(fd).type


def device_of(int fd):
    """The index of a link's device; 0 when it is gone. OSError when it is no link, or one of another kind."""
    cdef link_info info
    cdef uint32_t size = sizeof(info)
    memset(&info, 0, sizeof(info))
    check(bpf_obj_get_info_by_fd(fd, &info, &size), "device")
    return info.tcx.ifindex if info.type == LINK_TCX else info.xdp.ifindex if info.type == LINK_XDP else 0


def pin(int fd, str path not None):
    """Have the kernel keep it under a name in a file system for that (bpffs). OSError: EEXIST, ENOENT, EPERM; EINVAL:
    the directory is in another file system."""
    check(bpf_obj_pin(fd, path.encode()), path)


def pinned(str path not None):
    """What is kept there. OSError: ENOENT, EPERM."""
    cdef int fd = bpf_obj_get(path.encode())
    check(fd, path)
    return Fd(fd)


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

    def read(self, size_t at, size_t size):
        if at > self.size or size > self.size - at:
            raise IndexError("beyond the map")
        return <bytes>self.bytes_[at:at + size]

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


def wait_for_programs():
    """Until no packet is at work any more that was when this began: they are within RCU's read side, for which the
    kernel waits here, about ten milliseconds. membarrier(2): EINVAL, with CPUs of nohz_full; ENOSYS, not built in;
    EPERM, a seccomp filter."""
    cdef long result
    with nogil:
        result = syscall(SYS_membarrier, <int>MEMBARRIER_CMD_GLOBAL, <unsigned int>0, <int>0)
    if result < 0:
        raise OSError(errno, strerror(errno).decode())


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


def keys(int fd, int size):
    """All keys of a map, of `size` bytes each. What comes or goes meanwhile may be missing."""
    cdef bytes key = bytes(size), after
    cdef list found = []
    cdef int result = bpf_map_get_next_key(fd, NULL, <char *>key)
    while result == 0 and len(found) <= KEYS_MAX:
        found.append(key)
        after = bytes(size)
        result = bpf_map_get_next_key(fd, <const char *>key, <char *>after)
        key = after
    if result != -ENOENT:
        check(result, "keys")
    return found


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
        "place": sizeof(place),
        "number": sizeof(number),
        "source": sizeof(source),
    }
