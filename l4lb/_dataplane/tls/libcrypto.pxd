# libcrypto: the few functions of OpenSSL that reading a QUIC Initial needs, found when they are first wanted. Python's
# ssl needs the same library, so nearly every host has it; without it all but QUIC routes by name works. Nothing is
# needed of it when l4lb is built.
#
# Each native module that cimports this has a table of its own. `libcrypto_load` on the control thread, before a worker
# reads a snapshot that needs it; the rest on any thread.

from libc.stdint cimport uint8_t

cdef extern from * nogil:
    """
    #include <dlfcn.h>

    struct evp_cipher;
    struct evp_context;
    struct evp_digest;

    typedef struct {
        struct evp_context *(*context_new)(void);
        void (*context_free)(struct evp_context *);
        const struct evp_cipher *(*aes_ecb)(void), *(*aes_gcm)(void);
        const struct evp_digest *(*sha256)(void);
        int (*encrypt_init)(struct evp_context *, const struct evp_cipher *, void *, const uint8_t *, const uint8_t *);
        int (*encrypt_update)(struct evp_context *, uint8_t *, int *, const uint8_t *, int);
        int (*decrypt_init)(struct evp_context *, const struct evp_cipher *, void *, const uint8_t *, const uint8_t *);
        int (*decrypt_update)(struct evp_context *, uint8_t *, int *, const uint8_t *, int);
        int (*decrypt_final)(struct evp_context *, uint8_t *, int *);
        int (*control)(struct evp_context *, int, int, void *);
        uint8_t *(*hmac)(const struct evp_digest *, const void *, int, const uint8_t *, size_t, uint8_t *, unsigned *);
    } libcrypto_t;

    static libcrypto_t libcrypto;
    static int libcrypto_loaded;

    static inline int libcrypto_find(void *library)
    {
        const struct { const char *name; void *place; } functions[] = {
            {"EVP_CIPHER_CTX_new", &libcrypto.context_new}, {"EVP_CIPHER_CTX_free", &libcrypto.context_free},
            {"EVP_aes_128_ecb", &libcrypto.aes_ecb},        {"EVP_aes_128_gcm", &libcrypto.aes_gcm},
            {"EVP_sha256", &libcrypto.sha256},              {"EVP_EncryptInit_ex", &libcrypto.encrypt_init},
            {"EVP_EncryptUpdate", &libcrypto.encrypt_update}, {"EVP_DecryptInit_ex", &libcrypto.decrypt_init},
            {"EVP_DecryptUpdate", &libcrypto.decrypt_update}, {"EVP_DecryptFinal_ex", &libcrypto.decrypt_final},
            {"EVP_CIPHER_CTX_ctrl", &libcrypto.control},    {"HMAC", &libcrypto.hmac},
        };
        for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
            void *found = dlsym(library, functions[i].name);
            if (!found)
                return 0;
            memcpy(functions[i].place, &found, sizeof found);
        }
        return 1;
    }

    /* dlopen(3), dlsym(3): NULL, the library or the function is not there. It stays open. */
    static inline int libcrypto_load(void)
    {
        const char *names[] = {"libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.so"};
        for (int i = 0; i < 3 && !libcrypto_loaded; i++) {
            void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
            libcrypto_loaded = library && libcrypto_find(library);
        }
        return libcrypto_loaded;
    }
    """
    ctypedef struct evp_context "struct evp_context":
        pass
    ctypedef struct evp_cipher "struct evp_cipher":
        pass
    ctypedef struct evp_digest "struct evp_digest":
        pass
    ctypedef struct libcrypto_t:
        evp_context *(*context_new)() noexcept nogil
        void (*context_free)(evp_context *) noexcept nogil
        const evp_cipher *(*aes_ecb)() noexcept nogil
        const evp_cipher *(*aes_gcm)() noexcept nogil
        const evp_digest *(*sha256)() noexcept nogil
        int (*encrypt_init)(evp_context *, const evp_cipher *, void *, const uint8_t *, const uint8_t *) noexcept nogil
        int (*encrypt_update)(evp_context *, uint8_t *, int *, const uint8_t *, int) noexcept nogil
        int (*decrypt_init)(evp_context *, const evp_cipher *, void *, const uint8_t *, const uint8_t *) noexcept nogil
        int (*decrypt_update)(evp_context *, uint8_t *, int *, const uint8_t *, int) noexcept nogil
        int (*decrypt_final)(evp_context *, uint8_t *, int *) noexcept nogil
        int (*control)(evp_context *, int, int, void *) noexcept nogil
        uint8_t *(*hmac)(
            const evp_digest *, const void *, int, const uint8_t *, size_t, uint8_t *, unsigned *
        ) noexcept nogil
    libcrypto_t libcrypto
    bint libcrypto_loaded
    bint libcrypto_load()

cdef enum:
    EVP_CTRL_AEAD_SET_TAG = 0x11  # openssl/evp.h
