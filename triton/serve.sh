#!/bin/bash
# Checks the engines, then becomes tritonserver; more arguments go to it.
#   TRITON_REPOSITORY  the model repository: a folder, or s3://BUCKET/PREFIX, or s3://http://HOST:PORT/BUCKET/PREFIX
#                      with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_DEFAULT_REGION; default /models
#   TRITON_MODELS      names that are checked and loaded at the start, by spaces; default: all
#   ENGINES_BUILDER    build_engines.py, elsewhere than in the image
set -euo pipefail
repository=${TRITON_REPOSITORY:-/models}
read -ra models <<<"${TRITON_MODELS:-}"
builder=${ENGINES_BUILDER:-/opt/nereid/scripts/build_engines.py}

checked=$repository
if [[ $repository == s3://* ]]; then
    # The check wants files: engines, manifests and configurations are copied for it, and served from S3.
    checked=$(mktemp -d)
    path=${repository#s3://}
    export RCLONE_S3_ENV_AUTH=true RCLONE_S3_PROVIDER=AWS RCLONE_S3_REGION=${AWS_DEFAULT_REGION:-us-east-1}
    if [[ $path =~ ^(https?://[^/]+)/(.*)$ ]]; then
        export RCLONE_S3_PROVIDER=Other RCLONE_S3_ENDPOINT=${BASH_REMATCH[1]}
        path=${BASH_REMATCH[2]}
    fi
    rclone copy --config /dev/null ":s3:$path" "$checked"
fi
python3 "$builder" check --repository "$checked" "${models[@]}"
if [[ $checked != "$repository" ]]; then
    rm -rf "$checked"
fi

load=(--load-model='*')
if ((${#models[@]})); then
    load=("${models[@]/#/--load-model=}")
fi
exec tritonserver --model-repository="$repository" --backend-directory=/opt/nereid/backends \
    --model-control-mode=explicit --model-config-name=tensorrt "${load[@]}" "$@"
