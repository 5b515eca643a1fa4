#!/bin/sh
# Runs llmctl of the release in use as root, with the configuration and secrets of this host. Made by the role units.
: "${LLM_CONFIG:=/etc/llm/scheduler_config.json}"
export LLM_CONFIG
if [ -z "${CREDENTIALS_DIRECTORY:-}" ] && [ -r /etc/llm/credentials/redis_url ]; then
    export CREDENTIALS_DIRECTORY=/etc/llm/credentials
fi
exec /opt/llm/current/bin/llmctl "$@"
