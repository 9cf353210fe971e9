/* bpf_map_lookup_batch() of libbpf with what the kernel answers when others are at work in the map, or a bucket has more
 * entries than there is room for: preloaded by tests/unit/engine/kernel/test_batches.py, which builds it with cc.
 *
 * BATCHES in the environment says what happens:
 *   busy        two of three calls find a bucket locked before they have read anything: EBUSY, no entries
 *   busy-after  two of three find one locked after some entries: EBUSY, with these entries and where they end
 *   always-busy each call finds one locked
 *   crowded     there is no room for a bucket in fewer than 20,000 entries: ENOSPC
 *   no-room     there is none in as many as there may be
 *   broken      EFAULT */

#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { CROWD = 20000, SOME = 100 };

typedef int lookup_batch(int, void *, void *, void *, void *, uint32_t *, const void *);

static int nothing(uint32_t *count, int error) {
    *count = 0;
    return -error;
}

int bpf_map_lookup_batch(int fd, void *after, void *last, void *keys, void *values, uint32_t *count, const void *options) {
    static unsigned calls;
    void *libbpf = dlopen("libbpf.so.1", RTLD_LAZY); /* which the module that calls has loaded for itself alone */
    lookup_batch *real = (lookup_batch *)dlsym(libbpf, "bpf_map_lookup_batch");
    const char *how = getenv("BATCHES");
    int unlucky = calls++ % 3 != 2;
    if (strcmp(how, "always-busy") == 0 || (strcmp(how, "busy") == 0 && unlucky))
        return nothing(count, EBUSY);
    if (strcmp(how, "broken") == 0)
        return nothing(count, EFAULT);
    if (strcmp(how, "no-room") == 0 || (strcmp(how, "crowded") == 0 && *count < CROWD))
        return nothing(count, ENOSPC);
    if (strcmp(how, "busy-after") == 0 && unlucky) {
        if (*count > SOME)
            *count = SOME;
        int result = real(fd, after, last, keys, values, count, options);
        return result == 0 ? -EBUSY : result;
    }
    return real(fd, after, last, keys, values, count, options);
}
