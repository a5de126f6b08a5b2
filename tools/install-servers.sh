#!/usr/bin/env bash
# Installs the programs that the tests need on Debian; on other systems it prints what is missing:
# - Redis, RabbitMQ, and a library that shifts a process' clock
# - for deploy/ and the commands of the documentation: Prometheus with promtool, docker-compose, systemd-analyze, curl
# - Chromium, for the tests of the sandbox's page
# The services that the packages would start are not needed.
#
#   tools/install-servers.sh [PACKAGE ...]      only these of them; without names: all
set -euo pipefail

missing=()
command -v redis-server >/dev/null || command -v valkey-server >/dev/null || missing+=(redis-server)
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null || missing+=(rabbitmq-server)
compgen -G "/usr/lib/*/faketime/libfaketime.so.1" >/dev/null || missing+=(faketime)
command -v promtool >/dev/null || missing+=(prometheus)
command -v docker-compose >/dev/null || docker compose version >/dev/null 2>&1 || missing+=(docker-compose)
command -v systemd-analyze >/dev/null || missing+=(systemd)
command -v curl >/dev/null || missing+=(curl)
command -v chromium >/dev/null || missing+=(chromium)
command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null || missing+=(chromium-headless-shell)
if [ $# -gt 0 ]; then
    chosen=()
    for package in ${missing[@]+"${missing[@]}"}; do
        for name in "$@"; do [ "$package" = "$name" ] && chosen+=("$package"); done
    done
    missing=(${chosen[@]+"${chosen[@]}"})
fi
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
    echo "The tests need ${missing[*]}: install them with your package manager." >&2
    exit 1
fi
sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo)
echo "installing ${missing[*]}"
# Keep the packages from starting services: the tests start their own servers.
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
