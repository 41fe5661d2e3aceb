# What `cmake --install` and the Debian package put where: cmake --build build && (cd build && cpack -G DEB)
if(CMAKE_INSTALL_PREFIX_INITIALIZED_TO_DEFAULT)
    set(CMAKE_INSTALL_PREFIX /usr CACHE PATH "" FORCE) # where the units look
endif()
include(GNUInstallDirs)
set(GEMMAD_SYSCONFDIR /etc CACHE PATH "where gemmad/gemmad.conf goes")

# The program knows its options; the file cannot say others.
add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/generated/gemmad.conf
    COMMAND gemmad --example-config > ${CMAKE_BINARY_DIR}/generated/gemmad.conf
    DEPENDS gemmad VERBATIM)
add_custom_target(example_config ALL DEPENDS ${CMAKE_BINARY_DIR}/generated/gemmad.conf)

# Completion comes out of the programs' options too.
foreach(shell bash zsh fish)
    foreach(program gemmad gemmactl)
        set(completion_${program} --completion ${shell})
        if(program STREQUAL gemmactl)
            set(completion_${program} completion ${shell})
        endif()
        add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/generated/${program}.${shell}
            COMMAND ${program} ${completion_${program}} > ${CMAKE_BINARY_DIR}/generated/${program}.${shell}
            DEPENDS ${program} gemmad-shard VERBATIM) # gemmactl asks gemmad-shard for the options of bench
        list(APPEND completions ${CMAKE_BINARY_DIR}/generated/${program}.${shell})
    endforeach()
endforeach()
add_custom_target(completions ALL DEPENDS ${completions})
foreach(program gemmad gemmactl)
    set(from ${CMAKE_BINARY_DIR}/generated/${program})
    install(FILES ${from}.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME ${program})
    install(FILES ${from}.zsh DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions RENAME _${program})
    install(FILES ${from}.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d RENAME ${program}.fish)
endforeach()

install(TARGETS gemmad gemmad-shard gemmactl RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES docs/gemmad.1 docs/gemmactl.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES README.md docs/api.md docs/http.md docs/security.md docs/observability.md docs/structured.md docs/openapi.json
    proto/gemmad.proto DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright)
install(FILES deploy/systemd/gemmad.service deploy/systemd/gemmad.socket deploy/systemd/gemmad-http.socket
    DESTINATION lib/systemd/system)
install(FILES ${CMAKE_BINARY_DIR}/generated/gemmad.conf DESTINATION ${GEMMAD_SYSCONFDIR}/gemmad)

set(CPACK_PACKAGE_NAME gemmad)
set(CPACK_PACKAGE_VENDOR "gemmad")
set(CPACK_PACKAGE_CONTACT "the gemmad maintainers <maintainers@gemmad.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "distributed inference daemon for Gemma 4")
set(CPACK_PACKAGE_DESCRIPTION "gemmad serves Google's Gemma 4 models from one machine or several over gRPC and
OpenAI-compatible HTTP. Ranks of an engine compute together over MPI.")
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "openmpi-bin, adduser")
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_SOURCE_DIR}/deploy/debian/postinst ${CMAKE_SOURCE_DIR}/deploy/debian/prerm
    ${CMAKE_SOURCE_DIR}/deploy/debian/postrm ${CMAKE_SOURCE_DIR}/deploy/debian/conffiles)
include(CPack)
