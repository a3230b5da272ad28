# For other fixtures: the project site, its keys and trust root, and a device that runs as a service.
tidectl init site >/dev/null
for k in root release time collector; do tidectl keys new --no-passphrase $k.key >/dev/null; done
tidectl trust init -o site.tideroot --root root.key --release release.key --time time.key --collector collector.key --key root.key >/dev/null 2>&1
build() { tidectl build site --root site.tideroot --key release.key "$@" 2>/dev/null >/dev/null; } # --seq N -o FILE
fingerprint() { tidectl trust show site.tideroot | awk '$1 == "fingerprint" {print $2}'; }
serve() { # a service, ready
	[ -e /etc/systemd/system/tidegate.service ] || tidegate service install >/dev/null
	tidegate service start >/dev/null
	until tidegate health >/dev/null 2>&1; do sleep 0.1; done
}
backend() { # ADDRESS PORT: something that answers
	python3 -m http.server --bind "$1" --directory www "$2" >/dev/null 2>&1 &
	until (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; do sleep 0.1; done
}
