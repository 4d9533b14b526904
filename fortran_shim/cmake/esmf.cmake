# libai4land_esmf: starts ESMF on the plugin's communicator, where ESMFMKFILE names the ESMF that esmpy will load.
# Without it the plugin calls ESMF_Initialize by its symbol, which it can for the versions that it knows.
if(DEFINED ESMFMKFILE AND ESMFMKFILE AND NOT EXISTS "${ESMFMKFILE}")
  message(FATAL_ERROR "ESMFMKFILE: there is no ${ESMFMKFILE}; -DESMFMKFILE= builds without ESMF")
elseif(NOT DEFINED ESMFMKFILE)
  set(ESMFMKFILE "$ENV{ESMFMKFILE}")
endif()
set(ESMFMKFILE "${ESMFMKFILE}" CACHE FILEPATH "esmf.mk of the ESMF that the plugin is to start, or nothing")
if(NOT ESMFMKFILE)
  return()
elseif(NOT EXISTS "${ESMFMKFILE}")
  message(STATUS "ESMF: not used, ESMFMKFILE is stale: there is no ${ESMFMKFILE}")
  return()
endif()

file(STRINGS "${ESMFMKFILE}" lines REGEX "^(# *)?ESMF_[A-Z0-9_]+ *[=:]")
foreach(line IN LISTS lines)
  foreach(name ESMF_LIBSDIR ESMF_F90COMPILER ESMF_F90COMPILEOPTS ESMF_F90COMPILEPATHS ESMF_COMPILER)
    if(line MATCHES "^(# *)?${name} *[=:](.*)$")
      separate_arguments(${name} UNIX_COMMAND "${CMAKE_MATCH_2}")
    endif()
  endforeach()
endforeach()
set(esmf "${ESMF_LIBSDIR}/libesmf_fullylinked.so")
if(NOT EXISTS "${esmf}" OR NOT ESMF_COMPILER MATCHES "gfortran")
  message(STATUS "ESMF: not used, esmpy needs ${esmf} and an ESMF built with gfortran, not ${ESMF_COMPILER}")
  return()
endif()

set(start "${CMAKE_BINARY_DIR}/libai4land_esmf.so")
set(source "${CMAKE_CURRENT_SOURCE_DIR}/src/ai4land_esmf.f90")
add_custom_command(OUTPUT "${start}"
  COMMAND ${ESMF_F90COMPILER} ${ESMF_F90COMPILEOPTS} ${ESMF_F90COMPILEPATHS} -fPIC -shared "${source}" -o "${start}"
    "${esmf}" "-Wl,-rpath,${ESMF_LIBSDIR}"
  DEPENDS "${source}" "${ESMFMKFILE}" "${esmf}"
  COMMENT "Start shim for the ESMF of ${ESMFMKFILE} (-DESMFMKFILE= leaves it out)"
  VERBATIM)
add_custom_target(esmf ALL DEPENDS "${start}")
install(PROGRAMS "${start}" DESTINATION "${CMAKE_INSTALL_LIBDIR}")
