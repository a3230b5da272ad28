# API Manager 2.6 is a stand-in under the name that the page uses, its backend another; the person
# has the password of one and a passphrase for keys.
mkdir certs && cd certs
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout ca.key -out ca.pem -subj "/CN=private authority" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout apim.key -out apim.csr -subj "/CN=apim.example" 2>/dev/null
openssl x509 -req -in apim.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out apim.pem -extfile <(echo subjectAltName=DNS:apim.example) 2>/dev/null
cd .. && cp certs/ca.pem apim-ca.pem
echo "127.0.0.1 apim.example" >>/etc/hosts
apim -cert certs/apim.pem -key certs/apim.key 2>apim.log &
until (exec 3<>/dev/tcp/127.0.0.1/9443) 2>/dev/null && (exec 3<>/dev/tcp/127.0.0.1/9444) 2>/dev/null; do sleep 0.1; done
ip addr add 10.20.0.15/32 dev lo # where the label's API has its backend
cat >backend.py <<'PY'
import http.server
class Any(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = ('backend: ' + self.path + '\n').encode()
        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)
    do_POST = do_GET
http.server.ThreadingHTTPServer(('10.20.0.15', 8080), Any).serve_forever()
PY
python3 backend.py 2>/dev/null &
until (exec 3<>/dev/tcp/10.20.0.15/8080) 2>/dev/null; do sleep 0.1; done
command -v sudo >/dev/null || { printf '#!/bin/sh\nexec "$@"\n' >/usr/local/bin/sudo && chmod 755 /usr/local/bin/sudo; } # the reader of this run is root
mkdir -p /mnt/stick
keytool -genkeypair -alias wso2apim -keyalg RSA -dname CN=wso2apim -keystore client-truststore.jks -storepass wso2carbon 2>/dev/null
export TIDECTL_WSO2_PASSWORD='pass word&+%' TIDECTL_PASSPHRASE='correct horse'
