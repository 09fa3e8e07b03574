# find_package(edgept): the target edgept::edgept, beside whose library this file lies.
get_filename_component(_edgept_libdir "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)
find_path(_edgept_include edgept.h HINTS "${_edgept_libdir}/../include" "${_edgept_libdir}/../../include")
if(NOT TARGET edgept::edgept)
  add_library(edgept::edgept SHARED IMPORTED)
  set_target_properties(edgept::edgept PROPERTIES
    IMPORTED_LOCATION "${_edgept_libdir}/libedgept.so"
    INTERFACE_INCLUDE_DIRECTORIES "${_edgept_include}"
    IMPORTED_LINK_DEPENDENT_LIBRARIES "")
endif()
set(edgept_FOUND TRUE)
