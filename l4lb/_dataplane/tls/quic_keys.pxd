# QUIC keys: reads a client's Initial packet as RFC 9001 5 lets everybody who sees it: its keys follow from the
# connection id that the client drew. OpenSSL does the ciphers (libcrypto.pxd, which must be loaded). One reader for
# each thread.

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, strlen

from l4lb._dataplane.tls.libcrypto cimport EVP_CTRL_AEAD_SET_TAG, evp_context, libcrypto
from l4lb._dataplane.tls.quic_initial cimport (
    QUIC_SAMPLE_AT, QUIC_TAG_BYTES, QUIC_V1, hello_stream_t, quic_frames_read, quic_initial_read, quic_initial_t,
)

cdef enum:
    SECRET_BYTES = 32             # of SHA-256
    KEY_BYTES = 16
    IV_BYTES = 12
    LABEL_MAX_BYTES = 64
    PLAIN_BYTES = 65536

cdef extern from * nogil:
    """
    /* RFC 9001 5.1, 5.2; RFC 9369 3.3 */
    static const uint8_t quic_salts[2][20] = {
        {0x38, 0x76, 0x2C, 0xF7, 0xF5, 0x59, 0x34, 0xB3, 0x4D, 0x17,
         0x9A, 0xE6, 0xA4, 0xC8, 0x0C, 0xAD, 0xCC, 0xBB, 0x7F, 0x0A},
        {0x0D, 0xED, 0xE3, 0xDE, 0xF7, 0x00, 0xA6, 0xDB, 0x81, 0x93,
         0x81, 0xBE, 0x6E, 0x26, 0x9D, 0xCB, 0xF9, 0xBD, 0x2E, 0xD9},
    };
    static const char *const quic_labels[2][3] = {
        {"quic key", "quic iv", "quic hp"}, {"quicv2 key", "quicv2 iv", "quicv2 hp"},
    };
    """
    const uint8_t quic_salts[2][20]
    const char *quic_labels[2][3]

cdef struct quic_keys_t:
    uint8_t key[KEY_BYTES]
    uint8_t iv[IV_BYTES]
    uint8_t header[KEY_BYTES]     # of header protection

cdef struct quic_reader_t:
    evp_context *ecb
    evp_context *gcm
    uint8_t *plain                # PLAIN_BYTES, of the packet that is being read


cdef inline bint hmac_sha256(
    uint8_t *out, const uint8_t *key, uint32_t key_length, const uint8_t *data, uint32_t length
) noexcept nogil:
    """HMAC(3): NULL when memory is short."""
    cdef unsigned size = 0
    return libcrypto.hmac(libcrypto.sha256(), key, <int>key_length, data, length, out, &size) != NULL


cdef inline bint expand_label(
    uint8_t *out, uint32_t size, const uint8_t *secret, const char *label
) noexcept nogil:
    """HKDF-Expand-Label of RFC 8446 7.1, with an empty context, of at most SECRET_BYTES."""
    cdef uint8_t info[LABEL_MAX_BYTES]
    cdef uint8_t block[SECRET_BYTES]
    cdef uint32_t length = <uint32_t>strlen(label)
    info[0] = 0
    info[1] = <uint8_t>size
    info[2] = <uint8_t>(6 + length)
    memcpy(info + 3, <const char *>b"tls13 ", 6)
    memcpy(info + 9, label, length)
    info[9 + length] = 0
    info[10 + length] = 1
    if not hmac_sha256(block, secret, SECRET_BYTES, info, 11 + length):
        return False
    memcpy(out, block, size)
    return True


cdef inline bint quic_keys_derive(
    quic_keys_t *keys, uint32_t version, const uint8_t *id, uint32_t length
) noexcept nogil:
    """The client's, of a first packet to that connection id (RFC 9001 5.2). False when memory is short."""
    cdef uint8_t initial[SECRET_BYTES]
    cdef uint8_t client[SECRET_BYTES]
    cdef int second = version != QUIC_V1
    return (
        hmac_sha256(initial, quic_salts[second], 20, id, length)
        and expand_label(client, SECRET_BYTES, initial, b"client in")
        and expand_label(keys.key, KEY_BYTES, client, quic_labels[second][0])
        and expand_label(keys.iv, IV_BYTES, client, quic_labels[second][1])
        and expand_label(keys.header, KEY_BYTES, client, quic_labels[second][2])
    )


cdef inline bint header_mask(
    quic_reader_t *self, const quic_keys_t *keys, const uint8_t *sample, uint8_t *mask
) noexcept nogil:
    """RFC 9001 5.4.3."""
    cdef int size = 0
    return (
        libcrypto.encrypt_init(self.ecb, libcrypto.aes_ecb(), NULL, keys.header, NULL) == 1
        and libcrypto.encrypt_update(self.ecb, mask, &size, sample, 16) == 1
        and size == 16
    )


cdef inline bint payload_decrypt(
    quic_reader_t *self, const quic_keys_t *keys, uint64_t number, const uint8_t *header, uint32_t header_length,
    const uint8_t *sealed, uint32_t length
) noexcept nogil:
    """AEAD_AES_128_GCM of `length` bytes and the tag behind them, to `plain`. False: it is not what its sender sent."""
    cdef uint8_t nonce[IV_BYTES]
    cdef uint8_t tag[QUIC_TAG_BYTES]
    cdef int size = 0, i
    memcpy(nonce, keys.iv, IV_BYTES)
    for i in range(8):
        nonce[IV_BYTES - 1 - i] ^= <uint8_t>(number >> (8 * i))
    memcpy(tag, sealed + length, QUIC_TAG_BYTES)
    return (
        libcrypto.decrypt_init(self.gcm, libcrypto.aes_gcm(), NULL, keys.key, nonce) == 1
        and libcrypto.control(self.gcm, EVP_CTRL_AEAD_SET_TAG, QUIC_TAG_BYTES, tag) == 1
        and libcrypto.decrypt_update(self.gcm, NULL, &size, header, <int>header_length) == 1
        and libcrypto.decrypt_update(self.gcm, self.plain, &size, sealed, <int>length) == 1
        and libcrypto.decrypt_final(self.gcm, self.plain + size, &size) == 1
    )


cdef inline bint quic_initial_decrypt(
    quic_reader_t *self, const quic_initial_t *packet, const uint8_t *data, uint32_t *length
) noexcept nogil:
    """The packet's frames, to `plain`. The packet number is as it stands there: a client's first ones are small."""
    cdef uint8_t header[1500]
    cdef uint8_t mask[16]
    cdef quic_keys_t keys
    cdef uint32_t size, i
    cdef uint64_t number = 0
    if packet.number_at + 4 > sizeof(header):
        return False
    if not quic_keys_derive(&keys, packet.version, packet.id, packet.id_length):
        return False
    if not header_mask(self, &keys, data + packet.number_at + QUIC_SAMPLE_AT, mask):
        return False
    memcpy(header, data, packet.number_at + 4)
    header[0] ^= mask[0] & 0x0F
    size = (header[0] & 3) + 1
    for i in range(size):
        header[packet.number_at + i] ^= mask[1 + i]
        number = (number << 8) | header[packet.number_at + i]
    if packet.end - packet.number_at < size + QUIC_TAG_BYTES:
        return False
    length[0] = packet.end - packet.number_at - size - QUIC_TAG_BYTES
    return payload_decrypt(
        self, &keys, number, header, packet.number_at + size, data + packet.number_at + size, length[0]
    )


cdef inline bint quic_hello_read(
    quic_reader_t *self, hello_stream_t *stream, const uint8_t *data, uint32_t length
) noexcept nogil:
    """Add what the packet at the start of a datagram has of its client's ClientHello. False: it is no Initial that can
    be read, or was changed on its way."""
    cdef quic_initial_t packet
    cdef uint32_t plain = 0
    return (
        quic_initial_read(&packet, data, length)
        and quic_initial_decrypt(self, &packet, data, &plain)
        and quic_frames_read(stream, self.plain, plain)
    )
