#!/bin/bash
# devstack/plugin.sh
# What is done when; how is in lib/trusted-clone.

source "$(dirname "${BASH_SOURCE[0]}")/lib/trusted-clone"

if is_trusted_clone_enabled; then
    case "$1/$2" in
        stack/pre-install)
            echo_summary "Checking the settings of trusted clones"
            check_trusted_clone_settings
            ;;
        stack/install)
            echo_summary "Installing trusted clones"
            install_trusted_clone
            ;;
        stack/post-config)
            echo_summary "Configuring trusted clones"
            configure_trusted_clone
            start_trusted_clone_tpm
            ;;
        stack/extra)
            echo_summary "Starting trusted clones"
            init_trusted_clone
            start_trusted_clone
            ;;
        stack/test-config)
            configure_trusted_clone_tempest
            ;;
        unstack/*)
            stop_trusted_clone
            ;;
        clean/*)
            cleanup_trusted_clone
            ;;
    esac
fi
