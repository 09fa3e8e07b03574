#!/bin/sh
# Gets what the C library is built with into a folder, and prints nothing but what it did.
#
#   setup.sh [FOLDER]            onnxruntime's C headers and library: FOLDER/include, FOLDER/lib
#   setup.sh --headers [FOLDER]  the headers alone; the tests link the library themselves
#   setup.sh --arm64 [FOLDER]    also those of `make arm64`: FOLDER/arm64, with an emulator
#   setup.sh --packages          first the compilers and checkers of all targets (needs root)
#
# The headers are those of Debian's package libonnxruntime-dev, of a release later than bookworm. They
# describe version 21 of the interface, which every later library serves, so the library may be any
# onnxruntime from 1.21 on: here the one in the Python package, or $ONNXRUNTIME_LIBRARY.
# On another system, put onnxruntime_c_api.h into FOLDER/include and libonnxruntime.so.1 into FOLDER/lib.
set -eu
release=${EDGEPT_DEBIAN_RELEASE:-trixie}

if [ "${1:-}" = --packages ]; then # before another option
    apt-get update
    apt-get install --yes --no-install-recommends \
        gcc g++ make cmake pkg-config clang libclang-rt-dev valgrind \
        gcc-aarch64-linux-gnu libc6-dev-arm64-cross libstdc++6-arm64-cross
    shift
fi
what=
case ${1:-} in
--headers | --arm64)
    what=$1
    shift
    ;;
esac
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/build/onnxruntime}
mkdir -p "$folder/include" "$folder/lib"
folder=$(cd "$folder" && pwd)

# apt as it is configured here, asked about another release, in a folder of its own
apt_get() {
    apt-get -qq -o "Dir::State=$folder/apt" -o "Dir::State::Lists=$folder/apt/lists" \
        -o "Dir::Cache=$folder/apt/cache" -o Dir::Etc::SourceList=/dev/null \
        -o "Dir::Etc::SourceParts=$folder/apt/etc" -o APT::Sandbox::User=root "$@"
}

fetch() { # PACKAGE: unpack it to $folder/unpacked
    if [ ! -e "$folder/apt/etc/later.sources" ]; then
        mkdir -p "$folder/apt/etc" "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial"
        awk 'BEGIN { RS = ""; ORS = "\n\n" } !/security/' /etc/apt/sources.list.d/*.sources |
            sed "s/^Suites:.*/Suites: $release/" >"$folder/apt/etc/later.sources"
        apt_get update
    fi
    (cd "$folder/apt" && apt_get download "$1" && dpkg -x "$1"_*.deb "$folder/unpacked")
    echo "unpacked $1 of $release"
}

if [ ! -e "$folder/include/onnxruntime_c_api.h" ]; then
    fetch libonnxruntime-dev
    cp "$folder"/unpacked/usr/include/onnxruntime/onnxruntime_c_api.h "$folder/include"
fi
if [ "$what" = --headers ]; then
    exit 0
fi

if [ ! -e "$folder/lib/libonnxruntime.so.1" ]; then
    library=${ONNXRUNTIME_LIBRARY:-$("${PYTHON:-python3}" -c '
import importlib.util, pathlib
package = importlib.util.find_spec("onnxruntime")
found = sorted(pathlib.Path(package.origin).parent.glob("capi/libonnxruntime.so.1.*")) if package else []
print(found[-1] if found else "")')}
    if [ -z "$library" ]; then
        echo "no libonnxruntime.so: pip install onnxruntime, or set ONNXRUNTIME_LIBRARY" >&2
        exit 1
    fi
    ln -sf "$library" "$folder/lib/libonnxruntime.so.1"
    ln -sf libonnxruntime.so.1 "$folder/lib/libonnxruntime.so"
    echo "linked $library"
fi

if [ "$what" = --arm64 ]; then
    mkdir -p "$folder/arm64/lib" "$folder/arm64/include"
    cp "$folder/include/onnxruntime_c_api.h" "$folder/arm64/include"
    if [ ! -e "$folder/arm64/qemu-aarch64" ]; then # bookworm's own crashes while it loads onnxruntime
        fetch qemu-user
        cp "$folder/unpacked/usr/bin/qemu-aarch64" "$folder/arm64"
    fi
    if [ ! -e "$folder/arm64/lib/libonnxruntime.so.1" ]; then
        "${PYTHON:-python3}" -m pip download --quiet --no-deps --only-binary=:all: \
            --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
            --dest "$folder/arm64" "onnxruntime>=1.23"
        "${PYTHON:-python3}" -m zipfile -e "$folder"/arm64/onnxruntime-*.whl "$folder/arm64/wheel"
        cp "$folder"/arm64/wheel/onnxruntime/capi/libonnxruntime.so.1.* "$folder/arm64/lib/libonnxruntime.so.1"
        ln -sf libonnxruntime.so.1 "$folder/arm64/lib/libonnxruntime.so"
        rm -rf "$folder"/arm64/wheel "$folder"/arm64/onnxruntime-*.whl
        echo "unpacked onnxruntime for aarch64"
    fi
fi
