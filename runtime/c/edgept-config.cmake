# find_package(edgept 0.1): the target edgept::edgept, beside whose library this file lies. It needs
# libonnxruntime, which is looked for beside it, in the system, and under ONNXRUNTIME (its folder).
get_filename_component(_edgept_libdir "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)
find_path(_edgept_include edgept.h HINTS "${_edgept_libdir}/../include" "${_edgept_libdir}/../../include")
find_library(EDGEPT_ONNXRUNTIME NAMES onnxruntime libonnxruntime.so.1
  HINTS "${ONNXRUNTIME}/lib" "${_edgept_libdir}")
if(NOT EDGEPT_ONNXRUNTIME)
  set(edgept_FOUND FALSE)
  set(edgept_NOT_FOUND_MESSAGE "libonnxruntime was not found. Set ONNXRUNTIME to the folder that holds its lib.")
  return()
endif()
if(NOT TARGET edgept::edgept)
  add_library(edgept::edgept SHARED IMPORTED)
  set_target_properties(edgept::edgept PROPERTIES
    IMPORTED_LOCATION "${_edgept_libdir}/libedgept.so"
    INTERFACE_INCLUDE_DIRECTORIES "${_edgept_include}"
    IMPORTED_LINK_DEPENDENT_LIBRARIES "${EDGEPT_ONNXRUNTIME}")
endif()
set(edgept_FOUND TRUE)
