"""socket.socket on saltecho::socket, put in place of CPython's by install().

Here is only what CPython does around its socket calls: parsing arguments, enums, the bookkeeping of
the Python object. Nothing here waits, retries or decides on an error.
"""
import io
import operator
import os
import socket as real
import sys

import _saltsock

RealSocket = real.socket
_UNSET = object()
made = 0  # how many sockets of saltecho there were


class BadBytes(UnicodeDecodeError):
    """saltecho has the text only, not its parts."""

    def __new__(cls, text):
        return super().__new__(cls, "utf-8", b"", 0, 1, text)

    def __init__(self, text):
        super().__init__("utf-8", b"", 0, 1, text)

    def __str__(self):
        return self.reason


BadBytes.__name__ = "UnicodeDecodeError"


def _make(kind, errno, message, text, written, exceptions):
    """The exception for an error of saltecho. An OSError picks its own class, by its number."""
    if kind == "ExceptionGroup":
        return ExceptionGroup(text.rsplit(" (", 1)[0], exceptions)
    if kind == "gaierror":
        return real.gaierror(errno, message)
    if errno is not None:
        return OSError(errno, message) if written is None else OSError(errno, message, written)
    special = {"UnicodeDecodeError": BadBytes, "UnsupportedOperation": io.UnsupportedOperation}
    cls = special.get(kind) or getattr(sys.modules["builtins"], kind)
    return cls(text)


_saltsock.set_factory(_make)


def _view(data):
    try:
        return memoryview(data).cast("B")
    except TypeError:
        name = type(data).__name__
        raise TypeError(f"a bytes-like object is required, not {name!r}") from None


def _bytes(data):
    return data if isinstance(data, bytes) else _view(data)


def _int(number):
    number = operator.index(number)
    if not -2**31 <= number < 2**31:
        raise OverflowError("Python int too large to convert to C int")
    return number


def _host(host):
    if isinstance(host, (bytes, bytearray)):
        return bytes(host).decode()
    if not isinstance(host, str):
        raise TypeError(f"str, bytes or bytearray expected, not {type(host).__name__}")
    return host if host.isascii() else host.encode("idna").decode()


def _address_in(family, address, caller):
    """What getsockaddrarg in socketmodule.c takes, in the forms of convert.rs."""
    if family == real.AF_UNIX:
        if isinstance(address, str):
            return os.fsencode(address)
        return bytes(_bytes(address))
    name = "AF_INET6" if family == real.AF_INET6 else "AF_INET"
    if not isinstance(address, tuple):
        got = type(address).__name__
        raise TypeError(f"{caller}(): {name} address must be tuple, not {got}")
    most = 4 if family == real.AF_INET6 else 2
    if not 2 <= len(address) <= most:
        raise TypeError(f"{name} address must be a tuple of 2 to {most}")
    host, port = _host(address[0]), _int(address[1])
    if len(address) == 2:
        return host, port
    flow, scope = (tuple(operator.index(n) & 0xffffffff for n in address[2:]) + (0,))[:2]
    return host, port, flow, scope


def _control(item):
    if not isinstance(item, tuple) or len(item) != 3:
        raise TypeError("[sendmsg() ancillary data items] must be sequence of length 3")
    return *item[:2], _bytes(item[2])


def _address_out(address):
    if isinstance(address, bytes):
        return address if address[:1] == b"\0" else os.fsdecode(address)
    return address


class socket(_saltsock.Core):
    __module__ = "socket"

    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        self._begin()
        if fileno is not None:
            if isinstance(fileno, float):
                raise TypeError("'float' object cannot be interpreted as an integer")
            fileno = operator.index(fileno)
            if fileno < 0:
                raise ValueError("negative file descriptor")
            self._open_fd(fileno)
            return
        family = real.AF_INET if family == -1 else family
        type = real.SOCK_STREAM if type == -1 else type
        nonblocking = bool(type & real.SOCK_NONBLOCK)
        type &= ~(real.SOCK_NONBLOCK | real.SOCK_CLOEXEC)
        self._open(int(family), int(type), 0 if proto == -1 else proto, nonblocking)

    def _begin(self):
        global made
        made += 1
        self._closed = False

    @classmethod
    def _from_loose(cls, loose):
        sock = cls.__new__(cls)
        sock._adopt(loose)
        sock._begin()
        return sock

    # CPython's own Python code, which needs only other methods.
    __enter__ = RealSocket.__enter__
    __exit__ = RealSocket.__exit__
    __repr__ = RealSocket.__repr__
    __getstate__ = RealSocket.__getstate__

    family = property(lambda self: real._intenum_converter(self._family(), real.AddressFamily))
    type = property(lambda self: real._intenum_converter(self._type(), real.SocketKind))
    proto = property(lambda self: self._proto())
    timeout = property(lambda self: self.gettimeout())

    def bind(self, address):
        self._bind(_address_in(self.family, address, "bind"))

    def connect(self, address):
        self._connect(_address_in(self.family, address, "connect"))

    def connect_ex(self, address):
        return self._connect_ex(_address_in(self.family, address, "connect_ex"))

    def accept(self):
        loose, address = self._accept()
        return socket._from_loose(loose), _address_out(address)

    def recv_into(self, buffer, nbytes=0, flags=0):
        view = _view(buffer)
        if nbytes < 0:
            raise ValueError("negative buffersize in recv_into")
        if nbytes > len(view):
            raise ValueError("buffer too small for requested bytes")
        return self._recv_into(view[:nbytes or len(view)], flags)

    def recvfrom(self, bufsize, flags=0):
        data, address = self._recvfrom(bufsize, flags)
        return data, _address_out(address)

    def recvfrom_into(self, buffer, nbytes=0, flags=0):
        view = _view(buffer)
        if nbytes < 0:
            raise ValueError("negative buffersize in recvfrom_into")
        if nbytes > len(view):
            raise ValueError("nbytes is greater than the length of the buffer")
        count, address = self._recvfrom_into(view[:nbytes or len(view)], flags)
        return count, _address_out(address)

    def recvmsg(self, bufsize, ancbufsize=0, flags=0, /):
        *message, address = self._recvmsg(bufsize, ancbufsize, flags)
        return *message, _address_out(address)

    def recvmsg_into(self, buffers, ancbufsize=0, flags=0, /):
        buffers = [_view(buffer) for buffer in buffers]
        *message, address = self._recvmsg_into(buffers, ancbufsize, flags)
        return *message, _address_out(address)

    def send(self, data, flags=0):
        return self._send(_bytes(data), flags)

    def sendall(self, data, flags=0):
        self._sendall(_bytes(data), flags)

    def sendto(self, *args):
        if not 2 <= len(args) <= 3:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({len(args)} given)")
        data, flags = _bytes(args[0]), args[1] if len(args) == 3 else 0
        address = _address_in(self.family, args[-1], "sendto")
        return self._sendto(data, operator.index(flags), address)

    def sendmsg(self, buffers, ancdata=(), flags=0, address=None, /):
        buffers = [_bytes(buffer) for buffer in buffers]
        ancdata = [_control(item) for item in ancdata]
        if address is not None:
            address = _address_in(self.family, address, "sendmsg")
        return self._sendmsg(buffers, ancdata, flags, address)

    def sendfile(self, file, offset=0, count=None):
        try:
            return self._sendfile_use_sendfile(file, offset, count)
        except real._GiveupOnSendfile:
            return self._sendfile_use_send(file, offset, count)

    # The two by their names in CPython, whose tests call them.
    def _sendfile_use_sendfile(self, file, offset=0, count=None):
        self._check_sendfile_params(file, offset, count)
        try:
            fd = file.fileno()
            os.fstat(fd)
        except (AttributeError, io.UnsupportedOperation, OSError) as error:
            raise real._GiveupOnSendfile(error)  # the file has no descriptor that is open
        return self._sendfile(fd, offset, count)

    def _sendfile_use_send(self, file, offset=0, count=None):
        self._check_sendfile_params(file, offset, count)
        return self._sendfile_from(file, offset, count)

    _check_sendfile_params = RealSocket._check_sendfile_params

    def getpeername(self):
        return _address_out(self._getpeername())

    def getsockname(self):
        return _address_out(self._getsockname())

    def setblocking(self, flag):
        self._setblocking(bool(flag))

    def dup(self):
        return self._from_loose(self._dup())

    def close(self):
        self._closed = True
        self._close()

    def detach(self):
        self._closed = True
        return self._detach()

    def makefile(self, mode="r", buffering=None, *, encoding=None, errors=None, newline=None):
        core = self._makefile(mode, buffering, encoding, errors or "strict", newline)
        return {"raw": RawFile, "buffered": BufferedFile, "text": TextFile}[core.kind()](core)


class _File:
    """The methods of saltecho's File, under an io base class for what io adds by itself."""

    def __init__(self, core):
        self._core = core

    closed = property(lambda self: self._core.closed())

    @property
    def mode(self):
        mode = self._core.mode()
        if mode is None:
            raise AttributeError("mode")
        return mode

    @property
    def name(self):  # saltecho has no name: SocketIO's, from fileno
        return -1 if self.closed else self.fileno()

    def read(self, n=-1, /):
        return self._core.read(_limit(n))

    def readline(self, limit=-1, /):
        return self._core.readline(None if limit is None or limit < 0 else limit)

    def readlines(self, hint=-1, /):
        return self._core.readlines() if hint in (None, -1, 0) else super().readlines(hint)

    def write(self, data, /):
        return self._core.write(data if isinstance(data, str) else _bytes(data))

    def flush(self):
        self._core.flush()

    def close(self):
        self._core.close()

    def readable(self):
        return self._core.readable()

    def writable(self):
        return self._core.writable()

    def seekable(self):
        return self._core.seekable()

    def fileno(self):
        return self._core.fileno()


def _limit(n):
    if n is None or n == -1:
        return None
    if n < 0:
        raise ValueError("read length must be non-negative or -1")
    return n


class _Binary(_File):
    def readinto(self, buffer, /):
        return self._core.readinto(_view(buffer))


class RawFile(_Binary, io.RawIOBase):
    def readall(self):
        return self._core.read(None)


class BufferedFile(_Binary, io.BufferedIOBase):
    def read1(self, n=-1, /):
        return self._core.read1(None if n is None or n < 0 else n)

    def peek(self, n=0, /):
        return self._core.peek()


class TextFile(_File, io.TextIOBase):
    pass


def _lookup(host, port):
    """What getaddrinfo takes, in the forms of convert.rs."""
    host = host.encode("idna").decode() if isinstance(host, str) else host and _host(host)
    if isinstance(port, (bytes, str)):
        return host, port if isinstance(port, str) else port.decode()
    port = operator.index(port)
    return (None, str(port)) if host is None else (host, port)


def create_connection(address, timeout=_UNSET, source_address=None, *, all_errors=False):
    host, port = address
    source = source_address and _address_in(real.AF_INET, source_address, "bind")
    seconds = False if timeout in (_UNSET, real._GLOBAL_DEFAULT_TIMEOUT) else timeout
    address = _lookup(host, port)
    return socket._from_loose(_saltsock.create_connection(address, seconds, source, all_errors))


def create_server(address, *, family=real.AF_INET, backlog=None, reuse_port=False,
                  dualstack_ipv6=False):
    address = _address_in(family, address, "bind")
    return socket._from_loose(
        _saltsock.create_server(address, family, backlog, bool(reuse_port), bool(dualstack_ipv6)))


def socketpair(family=None, type=real.SOCK_STREAM, proto=0):
    family = real.AF_UNIX if family is None else family
    return tuple(map(socket._from_loose, _saltsock.socketpair(family, type, proto)))


def install():
    """From here on `import socket` and what it offers stands on saltecho.

    ssl is imported first: its C code takes CPython's own class only, which gets a socket here by
    its detach, connected.
    """
    import ssl  # noqa: F401
    real.socket = socket
    real.create_connection = create_connection
    real.create_server = create_server
    real.socketpair = socketpair
    real.setdefaulttimeout = _saltsock.setdefaulttimeout
    real.getdefaulttimeout = _saltsock.getdefaulttimeout
