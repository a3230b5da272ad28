package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"tidegate/cmd/cli"
	"tidegate/policy/refusal"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/spf13/cobra"
)

// tokenSpec is what a development token says.
type tokenSpec struct {
	issuer, subject, consumer, application, keyType, kid string
	audience, scopes, subscriptions, claims              []string
	life                                                 time.Duration
}

func (a *app) tokenCommand() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Make development tokens"}
	c.AddCommand(a.tokenNewCommand())
	return c
}

func (a *app) tokenNewCommand() *cobra.Command {
	var s tokenSpec
	var key string
	c := &cobra.Command{
		Use:   "new [DIR]",
		Short: "Sign a JWT for trying an API; without --key with the throw-away key of tidectl dev DIR",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			if key == "" {
				key = filepath.Join(devFolder(dir), "issuer.pem")
				if s.issuer == "" {
					s.issuer = devIssuer
				}
				if _, err := os.Stat(key); err != nil {
					return refusal.New(refusal.Key, "no key to sign with").WithHint("give --key FILE.pem, or start tidectl dev %s once", dir)
				}
			}
			if s.issuer == "" {
				return cli.Usage("--issuer is needed with --key")
			}
			priv, err := readPEMKey(key)
			if err != nil {
				return err
			}
			token, claims, err := s.sign(priv, time.Now())
			if err != nil {
				return err
			}
			if a.json {
				return a.JSON(map[string]any{"token": token, "claims": claims})
			}
			_, err = fmt.Fprintln(a.Out, token)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&key, "key", "", "private key, PEM (PKCS #8): RSA, EC or Ed25519")
	f.StringVar(&s.issuer, "issuer", "", "claim iss")
	f.StringVar(&s.subject, "sub", "developer", "claim sub")
	f.StringArrayVar(&s.audience, "aud", nil, "claim aud")
	f.StringSliceVar(&s.scopes, "scope", nil, "scopes, separated by commas")
	f.StringVar(&s.consumer, "consumer-key", "", "claim consumerKey")
	f.StringVar(&s.application, "application", "", "ID:NAME[:PLAN[:OWNER]] of the application")
	f.StringArrayVar(&s.subscriptions, "subscribe", nil, "NAME:VERSION[:PLAN] of a subscribed API")
	f.StringVar(&s.keyType, "keytype", "PRODUCTION", "PRODUCTION or SANDBOX")
	f.StringVar(&s.kid, "kid", "", "header kid")
	f.StringArrayVar(&s.claims, "claim", nil, "NAME=VALUE of another claim; VALUE is JSON, or text")
	f.DurationVar(&s.life, "expires-in", time.Hour, "lifetime; negative makes an expired token")
	return c
}

// sign returns the token and its claims.
func (s tokenSpec) sign(key crypto.Signer, now time.Time) (string, jwt.MapClaims, error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return "", nil, err
	}
	claims := jwt.MapClaims{
		"iss": s.issuer, "sub": s.subject, "iat": now.Unix(), "exp": now.Add(s.life).Unix(),
		"jti": hex.EncodeToString(id), "keytype": s.keyType,
	}
	if len(s.audience) > 0 {
		claims["aud"] = s.audience
	}
	if len(s.scopes) > 0 {
		claims["scope"] = strings.Join(s.scopes, " ")
	}
	if s.consumer != "" {
		claims["consumerKey"] = s.consumer
	}
	if s.application != "" {
		p := append(strings.SplitN(s.application, ":", 4), "", "", "")
		claims["application"] = map[string]string{"id": p[0], "name": p[1], "tier": orElse(p[2], "Unlimited"), "owner": orElse(p[3], s.subject)}
	}
	if len(s.subscriptions) > 0 {
		var subs []map[string]string
		for _, v := range s.subscriptions {
			p := append(strings.SplitN(v, ":", 3), "", "")
			subs = append(subs, map[string]string{"name": p[0], "version": orElse(p[1], "*"), "subscriptionTier": orElse(p[2], "Unlimited"), "subscriberTenantDomain": "carbon.super"})
		}
		claims["subscribedAPIs"] = subs
	}
	for _, c := range s.claims {
		name, value, ok := strings.Cut(c, "=")
		if !ok {
			return "", nil, cli.Usage("--claim %q: want NAME=VALUE", c)
		}
		var v any
		if json.Unmarshal([]byte(value), &v) != nil {
			v = value
		}
		claims[name] = v
	}
	method, err := methodOf(key)
	if err != nil {
		return "", nil, err
	}
	t := jwt.NewWithClaims(method, claims)
	if s.kid != "" {
		t.Header["kid"] = s.kid
	}
	text, err := t.SignedString(key)
	return text, claims, err
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// methodOf returns the algorithm for a key.
func methodOf(key crypto.Signer) (jwt.SigningMethod, error) {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return jwt.SigningMethodRS256, nil
	case ed25519.PrivateKey:
		return jwt.SigningMethodEdDSA, nil
	case *ecdsa.PrivateKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return jwt.SigningMethodES256, nil
		case 384:
			return jwt.SigningMethodES384, nil
		case 521:
			return jwt.SigningMethodES512, nil
		}
	}
	return nil, refusal.New(refusal.Key, "no JWT algorithm for a key of type %T", key)
}

// readPEMKey reads a private key in PEM.
func readPEMKey(file string) (crypto.Signer, error) {
	b, err := readSmall(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, refusal.About(file, refusal.New(refusal.Key, "not PEM"))
	}
	var key any
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, refusal.About(file, refusal.New(refusal.Key, "%w", err))
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, refusal.About(file, refusal.New(refusal.Key, "a key of type %T cannot sign", key))
	}
	return s, nil
}

func (a *app) apikeyCommand() *cobra.Command {
	c := &cobra.Command{Use: "apikey", Short: "Make API keys"}
	c.AddCommand(a.apikeyNewCommand())
	return c
}

func (a *app) apikeyNewCommand() *cobra.Command {
	var name, application string
	c := &cobra.Command{
		Use:   "new",
		Short: "Make a random API key and the line of consumers.yaml that lets it in",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			key, hash, err := newAPIKey()
			if err != nil {
				return err
			}
			entry := fmt.Sprintf("{name: %q, sha256: %s", name, hash)
			if application != "" {
				entry += fmt.Sprintf(", application: %q", application)
			}
			entry += "}"
			if a.json {
				return a.JSON(map[string]string{"key": key, "sha256": hash, "entry": entry})
			}
			if _, err := fmt.Fprintln(a.Out, key); err != nil {
				return err
			}
			a.Say("add to consumers.yaml under api_keys:\n  - %s\nthe key itself is kept nowhere: give it to its owner now", entry)
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "key", "name for people")
	c.Flags().StringVar(&application, "application", "", "id of the application it belongs to")
	return c
}

// newAPIKey returns a key of 160 random bits and its SHA-256 in hex.
func newAPIKey() (key, hash string, err error) {
	b := make([]byte, 20)
	if _, err := rand.Read(b); err != nil {
		return "", "", err
	}
	key = "tgk_" + hex.EncodeToString(b)
	sum := sha256.Sum256([]byte(key))
	return key, hex.EncodeToString(sum[:]), nil
}
