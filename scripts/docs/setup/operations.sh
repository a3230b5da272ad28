# The program lies where it belongs; a project with two bundles and its trust root is at hand.
. /opt/docs/setup/site.sh
mkdir www && echo '{"alive": true}' >www/status && backend 127.0.0.1 9080
sed -i 's/^trial:.*/trial: {mode: automatic, window: 10s, attempts: 3}/' site/tide.yaml
build --seq 42 -o site-42.tide
sed -i 's/5PerMin: {count: 5/5PerMin: {count: 7/' site/policies.yaml
build --seq 43 -o site-43.tide
mv /usr/local/bin/tidegate .
