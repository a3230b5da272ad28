#!/usr/bin/env python3
"""A second verifier of signed bundles, independent of the Go code.

    verify_bundle.py FILE.tide ROOT.tideroot [FILE.tide ROOT.tideroot ...]

It pins the first root of ROOT.tideroot, follows the chain in that file and in the bundle,
verifies the manifest with the release keys, and compares every chunk. It needs the standard
library only: CBOR, COSE_Sign and Ed25519 (RFC 8032, verification) are below. For
each pair it prints one JSON object on a line, {"word": "OK"} or {"word": "E_...", "detail":
...}; it exits with the code of the last word. It judges form, signatures and content; whether a bundle is meant for a device, newer
or expired is another question.
"""
import hashlib
import json
import sys

EXIT = {"OK": 0, "E_FORMAT": 20, "E_FORMAT_VERSION": 20, "E_CBOR_CANON": 20, "E_TRUNCATED": 20,
        "E_TRAILING": 20, "E_LIMIT": 20, "E_SIG_NONE": 30, "E_SIG_BAD": 30, "E_SIG_THRESHOLD": 30,
        "E_ROOT": 31, "E_ROOT_CHAIN": 31, "E_TRUST_DOMAIN": 31, "E_DIGEST": 50}
MAX_METASET, MAX_ROOT, MAX_MANIFEST, MAX_CONTENT = 2 << 20, 16 << 10, 1 << 20, 256 << 20


class Refused(Exception):
    def __init__(self, word, detail):
        super().__init__(detail)
        self.word, self.detail = word, detail


# ---- canonical CBOR (RFC 8949 section 4.2.1, narrowed) ----

class Tag:
    def __init__(self, number, value):
        self.number, self.value = number, value


class Decoder:
    def __init__(self, data, depth=8, items=65536, tags=()):
        self.b, self.at, self.max_depth, self.left, self.tags = data, 0, depth, items, tags

    def fail(self, word, why):
        raise Refused(word, "%s at byte %d" % (why, self.at))

    def take(self, n):
        if self.at + n > len(self.b):
            self.fail("E_CBOR_CANON", "cut off")
        out = self.b[self.at:self.at + n]
        self.at += n
        return out

    def head(self):
        first = self.take(1)[0]
        major, info = first >> 5, first & 31
        if info < 24:
            return major, info, info
        if info > 27:
            self.fail("E_CBOR_CANON", "indefinite or reserved length")
        width = 1 << (info - 24)
        n = int.from_bytes(self.take(width), "big")
        if major != 7 and n < (24 if width == 1 else 1 << (4 * width)):
            self.fail("E_CBOR_CANON", "length that is not the shortest")
        return major, n, info

    def item(self, depth=1):
        if depth > self.max_depth:
            self.fail("E_LIMIT", "nested too deep")
        self.left -= 1
        if self.left < 0:
            self.fail("E_LIMIT", "too many items")
        major, n, info = self.head()
        if major == 0:
            return n
        if major == 1:
            if n > 1 << 63:
                self.fail("E_CBOR_CANON", "integer below -2^63")
            return -1 - n
        if major == 2:
            return bytes(self.take(n))
        if major == 3:
            try:
                return self.take(n).decode("utf-8")
            except UnicodeDecodeError:
                self.fail("E_FORMAT", "text that is not UTF-8")
        if major == 4:
            if n > self.left:
                self.fail("E_CBOR_CANON" if n <= 65536 else "E_LIMIT", "array longer than its bytes")
            return [self.item(depth + 1) for _ in range(n)]
        if major == 5:
            out, last = {}, None
            for _ in range(n):
                begin = self.at
                key = self.item(depth + 1)
                raw = self.b[begin:self.at]
                if isinstance(key, (bytes, list, dict, bool, Tag)):
                    self.fail("E_CBOR_CANON", "map key that is neither integer nor text")
                if last is not None and raw <= last:
                    self.fail("E_CBOR_CANON", "map keys not ascending")
                last = raw
                out[key] = self.item(depth + 1)
            return out
        if major == 6:
            if n not in self.tags:
                self.fail("E_CBOR_CANON", "tag %d" % n)
            return Tag(n, self.item(depth + 1))
        if info in (20, 21):
            return info == 21
        self.fail("E_CBOR_CANON", "simple value or float")

    def whole(self):
        value = self.item()
        if self.at != len(self.b):
            self.fail("E_CBOR_CANON", "more bytes after the item")
        return value


def encode_head(major, n):
    if n < 24:
        return bytes([major << 5 | n])
    for width, info in ((1, 24), (2, 25), (4, 26), (8, 27)):
        if n < 1 << (8 * width):
            return bytes([major << 5 | info]) + n.to_bytes(width, "big")
    raise ValueError(n)


def encode_bytes(b):
    return encode_head(2, len(b)) + b


def encode_text(s):
    b = s.encode()
    return encode_head(3, len(b)) + b


# ---- Ed25519 verification (RFC 8032 section 5.1.7), strict in S and in the key ----

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
I = pow(2, (P - 1) // 4, P)


def recover(y, sign):
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    if x2 == 0:
        return None if sign else 0
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * I % P
    if (x * x - x2) % P:
        return None
    return P - x if x & 1 != sign else x


def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiply(s, p):
    q = (0, 1, 1, 0)
    while s > 0:
        if s & 1:
            q = add(q, p)
        p = add(p, p)
        s >>= 1
    return q


def equal(p, q):
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


def decompress(b):
    y = int.from_bytes(b, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    x = recover(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


GY = 4 * pow(5, P - 2, P) % P
GX = recover(GY, 0)
G = (GX, GY, 1, GX * GY % P)


def valid_key(b):
    point = decompress(b) if len(b) == 32 else None
    return point is not None and not equal(multiply(8, point), (0, 1, 1, 0))


def verify(key, message, signature):
    if len(signature) != 64:
        return False
    a, r = decompress(key), signature[:32]
    s = int.from_bytes(signature[32:], "little")
    if a is None or s >= L:
        return False
    point = decompress(r)
    if point is None:
        return False
    h = int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % L
    return equal(multiply(s, G), add(point, multiply(h, a)))


def key_id(key):
    return hashlib.sha256(bytes.fromhex("a301012006215820") + key).digest()


# ---- COSE_Sign (RFC 9052), the strict profile ----

class Message:
    def __init__(self, tagged, kind):
        form = lambda why: Refused("E_FORMAT", "cose: " + why)
        if not isinstance(tagged, Tag) or not isinstance(tagged.value, list) or len(tagged.value) != 4:
            raise form("not a COSE_Sign")
        protected, unprotected, payload, signatures = tagged.value
        if not isinstance(protected, bytes) or unprotected != {} or not isinstance(payload, bytes) or not isinstance(signatures, list):
            raise form("wrong parts")
        header = inner(protected)
        if header != {3: "application/vnd.tidegate.%s+cbor" % kind}:
            raise form("body header")
        if not signatures:
            raise Refused("E_SIG_NONE", "no signature")
        if len(signatures) > 16:
            raise Refused("E_LIMIT", "more than 16 signatures")
        self.kind, self.payload, self.protected, self.signatures = kind, payload, protected, []
        seen = set()
        for s in signatures:
            if not isinstance(s, list) or len(s) != 3 or not isinstance(s[0], bytes) or s[1] != {} or not isinstance(s[2], bytes):
                raise form("wrong signature entry")
            if len(s[2]) > 8192:
                raise Refused("E_LIMIT", "signature too long")
            h = inner(s[0])
            if not isinstance(h, dict) or not h or not set(h) <= {1, 4}:
                raise form("signature header")
            alg, kid = h.get(1), h.get(4)
            if 1 in h and not isinstance(alg, (int, str)) or 4 in h and not isinstance(kid, bytes):
                raise form("signature header")
            if 1 in h and 4 in h:
                if (alg, kid) in seen:
                    raise form("the same key twice")
                seen.add((alg, kid))
            self.signatures.append((s[0], alg, kid, s[2]))

    def count(self, keys):
        """Returns the distinct keys that signed, and whether a known key's signature failed."""
        by_id, good, bad = {key_id(k): k for k in keys}, set(), False
        for protected, alg, kid, value in self.signatures:
            key = by_id.get(kid)
            if key is None or alg not in (-8, -19) or isinstance(alg, bool):
                continue
            tbs = (encode_head(4, 5) + encode_text("Signature") + encode_bytes(self.protected) + encode_bytes(protected)
                   + encode_bytes(b"tidegate/%s/v1" % self.kind.encode()) + encode_bytes(self.payload))
            if verify(key, tbs, value):
                good.add(key)
            else:
                bad = True
        return good, bad

    def demand(self, keys, threshold):
        good, bad = self.count(keys)
        if len(good) < threshold:
            raise Refused("E_SIG_BAD" if not good and bad else "E_SIG_THRESHOLD", "%d of %d keys" % (len(good), threshold))


def inner(b):
    try:
        return Decoder(b).whole()
    except Refused as e:
        if e.word in ("E_CBOR_CANON",):
            raise Refused("E_FORMAT", "cose: protected header: " + e.detail)
        raise


# ---- trust root ----

class Root:
    def __init__(self, payload):
        try:
            self.read(payload)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
            raise Refused("E_ROOT", "content: %r" % e)

    def read(self, payload):
        m = Decoder(payload).whole()
        bad = lambda why: Refused("E_ROOT", why)
        if not isinstance(m, dict) or m.get(1) != "root":
            raise Refused("E_FORMAT", "type: not a root")
        if not {1, 2, 3, 4, 5, 30} <= set(m) or not set(m) <= {1, 2, 3, 4, 5, 6, 30, 31, 32, 33, 99}:
            raise bad("fields %s" % sorted(m))
        if m.get(33):
            raise Refused("E_FORMAT_VERSION", "requirements %s" % m[33])
        self.domain, self.version, self.roles = m[2], m[4], {}
        for number, role in m[30].items():
            if set(role) != {1, 2, 3} or not 1 <= len(role[3]) <= 16:
                raise bad("role %d" % number)
            keys = [k[-2] for k, _ in role[3] if k.get(1) == 1 and k.get(-1) == 6]
            if len(set(keys)) != len(keys) or not 1 <= role[2] <= len(keys) or not all(valid_key(k) for k in keys):
                raise bad("role %d: keys or threshold" % number)
            self.roles[number] = (role[1], role[2], keys)
        if not {1, 2} <= set(self.roles):
            raise bad("no root or release role")
        self.payload = payload


def read_file(data, word):
    """Yields the byte strings of a file behind its magic."""
    magic = bytes.fromhex("d9d9f782") + encode_text(word) + b"\x01"
    if len(data) >= len(magic) and data[:len(magic) - 1] == magic[:-1] and data[len(magic) - 1] != 1:
        raise Refused("E_FORMAT_VERSION", "magic")
    if data[:len(magic)] != magic:
        if len(data) > 2 and magic.startswith(data):
            raise Refused("E_TRUNCATED", "magic")
        raise Refused("E_FORMAT", "magic")
    at = len(magic)
    while at < len(data):
        d = Decoder(data)
        d.at = at
        try:
            major, n, _ = d.head()
        except Refused as e:
            raise Refused("E_TRUNCATED" if "cut off" in e.detail else e.word, e.detail)
        if major != 2:
            raise Refused("E_FORMAT", "item that is not a byte string")
        yield n, data[d.at:d.at + n], at
        at = d.at + n


def follow(chain, envelopes):
    """Walks roots; chain is the list of accepted ones, the pin first."""
    for tagged in envelopes:
        message = Message(tagged, "root")
        if any(r.payload == message.payload for r in chain):
            continue  # its signatures were judged when it was accepted
        Decoder(message.payload).whole()  # the form comes before the version is looked at
        last = chain[-1]
        _, threshold, keys = last.roles[1]
        if len(message.count(keys)[0]) < threshold:
            raise Refused("E_ROOT_CHAIN", "not signed by root %d" % last.version)
        root = Root(message.payload)
        if len(message.count(root.roles[1][2])[0]) < root.roles[1][1] or root.version != last.version + 1:
            raise Refused("E_ROOT_CHAIN", "does not follow root %d" % last.version)
        if root.domain != last.domain:
            raise Refused("E_TRUST_DOMAIN", "root of another domain")
        if any(root.roles.get(n, (1 << 64,))[0] < r[0] for n, r in last.roles.items()):
            raise Refused("E_ROOT", "an epoch goes down")
        chain.append(root)


def pin(data):
    envelopes = [Decoder(b, tags=(98,)).whole() for _, b, _ in read_file(data, "tide-root")]
    first = Message(envelopes[0], "root")
    root = Root(first.payload)
    first.demand(root.roles[1][2], root.roles[1][1])
    chain = [root]
    follow(chain, envelopes[1:])
    return chain


# ---- bundle ----

def check_bundle(data, chain):
    items = read_file(data, "tide-bundle")
    try:
        n, metaset, _ = next(items)
    except StopIteration:
        raise Refused("E_TRUNCATED", "no metaset")
    if n > MAX_METASET:
        raise Refused("E_LIMIT", "metaset of %d bytes" % n)
    if len(metaset) < n:
        raise Refused("E_TRUNCATED", "metaset")
    parts = Decoder(metaset, tags=(98,)).whole()
    if not isinstance(parts, list) or len(parts) != 5 or not all(isinstance(p, list) for p in parts[:3] + parts[4:]):
        raise Refused("E_FORMAT", "metaset")
    roots, head, revokes, manifest, approvals = parts
    if head or revokes or approvals:
        raise Refused("E_FORMAT_VERSION", "head, revokes or approvals")
    if len(roots) > 32:
        raise Refused("E_LIMIT", "roots")
    follow(chain, roots)
    message = Message(manifest, "manifest")
    root = chain[-1]
    _, threshold, keys = root.roles[2]
    message.demand(keys, threshold)
    m = Decoder(message.payload).whole()
    if m.get(1) != "manifest":
        raise Refused("E_FORMAT", "type")
    if m.get(2) != root.domain:
        raise Refused("E_TRUST_DOMAIN", "bundle of another domain")
    chunks, seen = [], {}
    for f in m[16]:
        for size, digest in f[5]:
            if digest not in seen:
                seen[digest] = size
                chunks.append((size, digest))
    if sum(size for size, _ in chunks) != m[17]:
        raise Refused("E_LIMIT", "total")
    stored = {}
    for k, (size, digest) in enumerate(chunks):
        try:
            n, body, _ = next(items)
        except StopIteration:
            raise Refused("E_TRUNCATED", "chunk %d" % k)
        if n != size:
            raise Refused("E_FORMAT", "chunk %d has %d bytes, signed are %d" % (k, n, size))
        if len(body) < n:
            raise Refused("E_TRUNCATED", "chunk %d" % k)
        if hashlib.sha256(body).digest() != digest:
            raise Refused("E_DIGEST", "chunk %d" % k)
        stored[digest] = body
    if any(True for _ in items):
        raise Refused("E_TRAILING", "after the last chunk")
    for f in m[16]:
        if f[4] != 1:  # raw and sealed files are stored as they are
            body = b"".join(stored[d] for _, d in f[5])
            if len(body) != f[2] or hashlib.sha256(body).digest() != f[3]:
                raise Refused("E_DIGEST", "file %s" % f[1])
    return hashlib.sha256(message.payload).hexdigest()


def judge(file, root):
    try:
        with open(root, "rb") as f:
            chain = pin(f.read())
        with open(file, "rb") as f:
            return {"word": "OK", "digest": check_bundle(f.read(), chain)}
    except Refused as e:
        return {"word": e.word, "detail": e.detail}


def main(args):
    if not args or len(args) % 2:
        sys.stderr.write(__doc__)
        return 2
    for file, root in zip(args[::2], args[1::2]):
        out = judge(file, root)
        print(json.dumps(out))
    return EXIT[out["word"]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
