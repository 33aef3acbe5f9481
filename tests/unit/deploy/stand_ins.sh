#!/bin/bash
# DevStack's own functions, as far as this plugin calls them. What would reach for the machine is written to $CALLS instead.

function trueorfalse {
    case "${!2:-}" in
        1 | [Yy]es | YES | [Tt]rue | TRUE) echo True ;;
        0 | [Nn]o | NO | [Ff]alse | FALSE) echo False ;;
        *) echo "$1" ;;
    esac
}

function is_service_enabled {
    local service
    for service in "$@"; do
        if [[ ,$ENABLED_SERVICES, == *,$service,* ]]; then
            return 0
        fi
    done
    return 1
}

function enable_service {
    ENABLED_SERVICES+=,$1
}

function iniset {
    # Without the site's packages it starts in a tenth of the time.
    "$PYTHON" -I -S "$STAND_INS/ini.py" set "$@"
}

function die {
    shift
    echo "died: $*" >&2
    exit 1
}

function called {
    echo "$*" >>"$CALLS"
}

# The test's user may do all this in the scratch directories.
function sudo {
    "$@"
}

function database_connection_url {
    echo "mysql+pymysql://root:secret@192.0.2.1/$1?charset=utf8"
}

function systemd-tmpfiles {
    called systemd-tmpfiles "$(cat)"
}

function is_package_installed {
    return 1
}

# Nothing runs; a software TPM's sign that it is ready is given for it.
function run_process {
    called run_process "$@"
    local words=" $2 "
    if [[ "$words" == *" --event-log "* ]]; then
        words=${words#* --event-log }
        echo ready >"${words%% *}"
    fi
}

# A flavor is there once it was created.
function openstack {
    called openstack "$@"
    if [[ "$*" == *"flavor show"* ]]; then
        grep -q "flavor create" "$CALLS" && echo 0d1f6c3e
    fi
}

function define_plugin { called define_plugin "$@"; }
function plugin_requires { called plugin_requires "$@"; }
function echo_summary { called echo_summary "$@"; }
function setup_develop { called setup_develop "$@"; }
function stop_process { called stop_process "$@"; }
function restart_service { called restart_service "$@"; }
function recreate_database { called recreate_database "$@"; }
function sysctl { called sysctl "$@"; }
