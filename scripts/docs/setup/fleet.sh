# A broker as packaging/mqtt has it, under the name that the page uses, an authority of the reader's own
# with certificates for collector, publisher and device, a service that is installed, a project.
export TIDECTL_PASSPHRASE='correct horse battery staple'
echo "127.0.0.1 broker.example" >>/etc/hosts
ec() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }
signed() { # CN FILE: FILE.pem for FILE's key
	openssl req -new -key "$2.key" -subj "/CN=$1" -out "$2.csr"
	openssl x509 -req -in "$2.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out "$3" -extfile <(echo "subjectAltName=DNS:$1") 2>/dev/null
}
ec ca.key && openssl req -x509 -key ca.key -subj "/CN=private authority" -days 2 -out ca.pem
ec broker.key && signed broker.example broker broker.pem
ec collector-tls.key && signed fleet-collector-1 collector-tls collector.pem
ec publisher-tls.key && signed fleet-publisher-1 publisher-tls publisher.pem
mkdir -p /etc/mosquitto/certs /var/lib/mosquitto && cp ca.pem broker.pem broker.key /etc/mosquitto/certs/
cp /opt/docs/packaging/mqtt/mosquitto.acl /etc/mosquitto/
chown -R mosquitto /etc/mosquitto /var/lib/mosquitto
mosquitto -c /opt/docs/packaging/mqtt/mosquitto.conf >/tmp/mosquitto.log 2>&1 &
until (exec 3<>/dev/tcp/127.0.0.1/8883) 2>/dev/null; do sleep 0.1; done

tidegate service install >/dev/null
tidectl init site >/dev/null
printf 'product: tidegate-sample\nchannel: stable\nname: meters\nversion: "1.0"\nhardware: [any]\ntrial: {mode: automatic, window: 10s, attempts: 3}\n' >site/tide.yaml

# The reader's authority signs for the device once its id is known; FINGERPRINT came by telephone.
ec device.key
install() { # the page copies the certificate when it is there
	[ -e device.pem ] || signed "$(basename devices/*.tidedevice .tidedevice)" device device.pem
	command install "$@"
}
tidectl() {
	command tidectl "$@" || return
	if [ "$1 ${2:-}" = "trust init" ]; then FINGERPRINT=$(command tidectl trust show fleet.tideroot | awk '$1 == "fingerprint" {print $2}'); fi
}
