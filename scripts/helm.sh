#!/usr/bin/env bash
# Lints the chart and renders it in the ways in which it is used; each rendering must be what Kubernetes
# can read, and the manifests too. The block of docs/install.md is run as it stands there, with helm
# template in place of helm install, and a stand-in for kubectl.
#   scripts/helm.sh
#   HELM   the program; default: helm on the PATH, else built from scripts/helm/go.mod (some minutes, once)
set -euo pipefail
cd "$(dirname "$0")/.."
chart=packaging/helm/tidegate
helm=${HELM:-$(command -v helm || true)}
if [ -z "$helm" ]; then
	helm=$PWD/out/tools/helm
	mkdir -p out/tools
	[ -x "$helm" ] || (cd scripts/helm && GOWORK=off go build -o "$helm" helm.sh/helm/v3/cmd/helm) || { echo "skipped: helm: it cannot be built here"; exit 0; }
fi
t=$(mktemp -d)
trap 'rm -rf "$t"' EXIT

"$helm" lint --strict $chart >"$t/lint" || { cat "$t/lint"; exit 1; }
render() { "$helm" template --kube-version 1.31.0 gate $chart "$@" >"$t/out.yaml" || { echo "FAILED: render $*"; exit 1; }; }
has() { grep -qF -- "$1" "$t/out.yaml" || { echo "FAILED: no $1"; exit 1; }; }
hasnt() { if grep -qF -- "$1" "$t/out.yaml"; then echo "FAILED: $1"; exit 1; fi; }

render
has 'image: "tidegate:latest"'; has 'replicas: 1'; has 'readOnlyRootFilesystem: true'; has 'targetPort: https'; hasnt provision
render --set provision=site --set service.https=0 --set environment=secrets --set image.repository=r.example/t --set image.tag=1.2.3 --set persistence.storageClass=fast
has '--provision=/provision'; has 'secretName: site'; has 'name: secrets'; has 'image: "r.example/t:1.2.3"'; has 'storageClassName: fast'; hasnt 'targetPort: https'
if "$helm" template --kube-version 1.31.0 gate $chart --set replicas=2 >/dev/null 2>&1; then echo "FAILED: an unknown value was taken"; exit 1; fi
if "$helm" template --kube-version 1.31.0 gate $chart --set service.http=70000 >/dev/null 2>&1; then echo "FAILED: a port beyond 65535 was taken"; exit 1; fi
# The plain manifests, read by the same reader.
mkdir -p "$t/plain/templates"
printf 'apiVersion: v2\nname: plain\nversion: 0.0.0\n' >"$t/plain/Chart.yaml"
cp packaging/kubernetes/*.yaml "$t/plain/templates/"
"$helm" template --kube-version 1.31.0 plain "$t/plain" >"$t/out.yaml" || { echo "FAILED: packaging/kubernetes"; exit 1; }
[ "$(grep -c '^kind: StatefulSet' "$t/out.yaml")" = 3 ] || { echo "FAILED: packaging/kubernetes: not three stateful sets"; exit 1; }
[ "$(grep -c 'readOnlyRootFilesystem: true' "$t/out.yaml")" = 4 ] || { echo "FAILED: packaging/kubernetes: a writable root"; exit 1; }
echo "ok   chart: lint, renderings, unknown values refused; manifests read"

# The block of docs/install.md
mkdir "$t/here" "$t/bin" "$t/cluster"
ln -s "$PWD/packaging" "$t/here/"
CGO_ENABLED=0 go build -o "$t/" ./cmd/tidegate ./cmd/tidectl
(
	cd "$t"
	for k in root release; do ./tidectl keys new $k.key --no-passphrase --role $k; done
	./tidectl trust init -o here/site.tideroot --root root.key --release release.key --key root.key
	./tidectl build "$OLDPWD/examples/meters" -o here/site.tide --key release.key --root here/site.tideroot --seq 1
) >"$t/log" 2>&1 || { cat "$t/log"; exit 1; }
printf '#!/bin/sh\n[ "$1" = install ] || exit 99\nshift\nexec "%s" template --kube-version 1.31.0 "$@" >"%s"\n' "$(realpath "$helm")" "$t/cluster/manifest" >"$t/bin/helm"
cp scripts/helm/kubectl.sh "$t/bin/kubectl"
chmod 755 "$t/bin/helm"
scripts/docblock.sh docs/install.md helm >"$t/block"
(cd "$t/here" && CLUSTER=$t/cluster KUBECTL=$(command -v kubectl || true) TIDEGATE=$t/tidegate PATH=$t/bin:$PATH bash -euo pipefail "$t/block") >"$t/log" 2>&1 ||
	{ cat "$t/log"; echo "FAILED: docs/install.md: helm"; exit 1; }
grep -q 'image: "registry.example/tidegate:' "$t/cluster/manifest" && [ "$(cat "$t/cluster/ran")" = "tidegate status" ] || { cat "$t/cluster/manifest"; echo "FAILED: the block did something else"; exit 1; }
echo "ok   docs/install.md as pasted: the chart is rendered with its secret, and the pod has the name that is used"
